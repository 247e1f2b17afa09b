// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/vhost/inflight/inflight_record.h"

namespace guestio::vhost {

/// The in-flight record of one split ring. The order of the stores is that of the vhost-user
/// document: a backend killed between any two of them leaves a record that the next one can read.
///
///     header          features, version, desc_num
///     last_batch_head, used_idx     the last published batch
///     size × Entry    inflight, next (in the last batch), counter
///
/// The shared memory is read by open() only, and written later.
/// Errors: memory fault (the memory is gone), peer fault (no backend leaves such a record).
/// Threads: one.
class SplitInflight {
 public:
  [[nodiscard]] static constexpr std::size_t region_bytes(std::uint32_t size) noexcept {
    return sizeof(Region) + sizeof(Entry) * size;
  }

  /// The state that an earlier backend left.
  struct Recovered {
    bool is_fresh = false;             ///< a new record
    std::vector<std::uint16_t> heads;  ///< of chains in flight, oldest first
  };

  /// Completes the last batch of an earlier backend. `used_index`: of the ring.
  static Result<SplitInflight> open(std::byte* region, std::uint16_t size, std::uint16_t used_index,
                                    Recovered& recovered);

  /// A chain was popped.
  Result<> note_popped(std::uint16_t head);
  /// The used index is about to pass these.
  Result<> begin_publish(std::span<const std::uint16_t> heads);
  /// The used index is `used_index` now.
  Result<> end_publish(std::span<const std::uint16_t> heads, std::uint16_t used_index);

 private:
  struct Region {
    InflightHeader header;  // its last 4 bytes hold the next two fields
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
