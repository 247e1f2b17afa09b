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

/// Splits a request into descriptors and places them in shared memory between guard bytes, which
/// are checked afterwards.
///
/// A request has a device-readable part (header and data) and a device-writable part (data and
/// status). Each is split into segments; the segments lie in any order between guard bytes:
///
///     arena:  guard | segment 3 | guard | segment 1 | guard | segment 2 | guard
///
/// Threads: one.
class RequestLayout {
 public:
  /// Limits of the device and the ring.
  struct Limits {
    std::uint32_t descriptors = 3;         ///< of one request, at least two
    std::uint32_t descriptor_bytes = ~0u;  ///< maximum of one descriptor
  };

  /// Size of an arena for requests of `max_request` bytes in both parts together.
  static std::size_t arena_bytes(std::size_t max_request, const Limits& limits);

  /// Requires: `arena` has at least arena_bytes() and is page-aligned.
  RequestLayout(vhost::SharedRange arena, const Limits& limits) : arena_(arena), limits_(limits) {}

  /// Lays out a request: copies `readable`, reserves `writable` bytes for the device.
  /// Requires: both parts are non-empty and within the limits.
  void lay(std::span<const std::byte> readable, std::size_t writable, Layout layout,
           std::mt19937_64& engine);

  [[nodiscard]] std::span<const virtio::DriverSegment> segments() const noexcept {
    return segments_;
  }
  /// Copies the device-writable bytes in order. Requires: `to` has the `writable` bytes of lay().
  void copy_written(std::span<std::byte> to) const;
  /// The arena offset of a changed byte outside the device-writable part; nullopt without one.
  [[nodiscard]] std::optional<std::size_t> find_corruption();

 private:
  struct Placement {
    std::size_t length;
    std::size_t at;  // in the arena
    virtio::Direction direction;
  };

  /// One part and the position of its data.
  struct Part {
    std::size_t length;
    std::size_t data_start;
    std::size_t data_end;
    virtio::Direction direction;
  };

  [[nodiscard]] std::size_t min_descriptors(const Part& part) const;
  void cut(const Part& part, std::size_t extra_cuts, Layout layout, std::mt19937_64& engine);
  void add_descriptors(std::size_t length, virtio::Direction direction);
  std::size_t place(Layout layout, std::mt19937_64& engine);

  vhost::SharedRange arena_;
  Limits limits_;
  std::vector<Placement> placements_;  // in chain order
  std::vector<virtio::DriverSegment> segments_;
  std::vector<std::byte> before_;  // the used part of the arena, as submitted
};

}  // namespace guestio::load
