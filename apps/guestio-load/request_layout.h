// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <vector>

#include "apps/guestio-load/arguments.h"
#include "guestio/vhost/frontend/frontend_memory.h"
#include "guestio/virtio/driver_chain.h"

namespace guestio::load {

/// Cuts a request into descriptors and lays it out in shared memory, so that afterwards every byte
/// around it can be checked.
///
/// A request is two rows of bytes: what the device reads (header and data) and what it writes (data
/// and status). Each is cut into pieces; the pieces lie in any order with guard bytes between them:
///
///     arena:  guard | piece 3 | guard | piece 1 | guard | piece 2 | guard
///
/// Threads: one.
class RequestLayout {
 public:
  /// What the device and the ring take.
  struct Limits {
    std::uint32_t pieces = 3;         ///< descriptors of one request, two at least
    std::uint32_t piece_bytes = ~0u;  ///< of one descriptor
  };

  /// Bytes that an arena needs for requests of so many bytes in both rows together.
  static std::size_t arena_bytes(std::size_t largest, const Limits& limits);

  /// Requires: `arena` is arena_bytes() long at least and begins with a page.
  RequestLayout(vhost::SharedRange arena, const Limits& limits) : arena_(arena), limits_(limits) {}

  /// Lays out a request: `readable` is copied, `writable` bytes are for the device.
  /// Requires: both rows have bytes, and fit the limits.
  void lay(std::span<const std::byte> readable, std::size_t writable, Layout layout,
           std::mt19937_64& engine);

  [[nodiscard]] std::span<const virtio::DriverSegment> segments() const noexcept {
    return segments_;
  }
  /// Copies what the device wrote, in order. Requires: `to` has as many bytes as lay() was told.
  void take_written(std::span<std::byte> to) const;
  /// Where in the arena a byte changed that the device had no business with; nothing if none did.
  [[nodiscard]] std::optional<std::size_t> find_damage();

 private:
  struct Piece {
    std::size_t length;
    std::size_t at;  // in the arena
    virtio::Direction direction;
  };

  /// One row and where its data lies in it.
  struct Row {
    std::size_t length;
    std::size_t data_start;
    std::size_t data_end;
    virtio::Direction direction;
  };

  [[nodiscard]] std::size_t fewest_pieces(const Row& row) const;
  void cut(const Row& row, std::size_t extra_cuts, Layout layout, std::mt19937_64& engine);
  void add_piece(std::size_t length, virtio::Direction direction);
  std::size_t place(Layout layout, std::mt19937_64& engine);

  vhost::SharedRange arena_;
  Limits limits_;
  std::vector<Piece> pieces_;  // in the order of the chain
  std::vector<virtio::DriverSegment> segments_;
  std::vector<std::byte> before_;  // the part of the arena in use, as it was handed over
};

}  // namespace guestio::load
