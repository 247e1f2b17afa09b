// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/vhost/inflight/inflight_record.h"

namespace guestio::vhost {

/// The in-flight record of one split ring. Its fields are written in the order of the vhost-user
/// document, so that a backend that is killed between any two of them leaves what the next one can
/// make sense of.
///
///     header          features, version, desc_num
///     last_batch_head, used_idx     what was answered last
///     size × Entry    inflight, next (in the last batch), counter
///
/// Memory that the front-end shares is read when the record is opened, and only written later.
/// Errors: memory fault (it was taken away), peer fault (it cannot be what a backend left).
/// Threads: one.
class SplitInflight {
 public:
  [[nodiscard]] static constexpr std::size_t region_bytes(std::uint32_t size) noexcept {
    return sizeof(Region) + sizeof(Entry) * size;
  }

  /// What the backend before left.
  struct Left {
    bool is_fresh = false;             ///< nothing: the record is new
    std::vector<std::uint16_t> heads;  ///< of chains taken and not answered, oldest first
  };

  /// Finishes what the backend before was doing with the ring whose used index is `used_index`.
  static Result<SplitInflight> open(std::byte* region, std::uint16_t size, std::uint16_t used_index,
                                    Left& left);

  /// A chain was taken from the ring.
  Result<> take(std::uint16_t head);
  /// The used index is about to go past these.
  Result<> begin_answers(std::span<const std::uint16_t> heads);
  /// The used index is `used_index` now.
  Result<> end_answers(std::span<const std::uint16_t> heads, std::uint16_t used_index);

 private:
  struct Region {
    InflightHeader header;  // with 4 bytes behind it that the next two stand in
  };
  struct Entry {
    std::uint8_t inflight;
    std::uint8_t padding[5];
    std::uint16_t next;
    std::uint64_t counter;
  };
  static_assert(sizeof(InflightHeader) == 16 && sizeof(Region) == 16 && sizeof(Entry) == 16);

  SplitInflight(std::byte* region, std::uint16_t size) noexcept : region_(region), size_(size) {}

  [[nodiscard]] InflightHeader* header() const noexcept;
  [[nodiscard]] std::uint16_t* last_batch_head() const noexcept;
  [[nodiscard]] std::uint16_t* used_idx() const noexcept;
  [[nodiscard]] Entry* entry(std::uint16_t head) const noexcept;

  Result<> format(std::uint16_t used_index);
  Result<> finish_last_batch(std::uint16_t used_index);
  Result<> collect(std::vector<std::uint16_t>& in_flight);

  std::byte* region_;
  std::uint16_t size_;
  std::uint16_t last_in_batch_ = 0;
  std::uint64_t counter_ = 0;
};

}  // namespace guestio::vhost
