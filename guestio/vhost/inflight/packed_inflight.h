// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/vhost/inflight/inflight_record.h"
#include "guestio/virtio/packed_ring.h"

namespace guestio::vhost {

/// The in-flight record of one packed ring: copies of the popped descriptors, because used
/// descriptors overwrite those in the ring. The order of the stores is that of the vhost-user
/// document: a backend killed between any two of them leaves a record that the next one can read.
///
/// Free entries form a list from free_head. The "old" fields are valid until a batch is published:
/// a pop moves old_free_head when it is complete, a publication moves all three at its end. No
/// chain is popped during a publication.
///
/// The shared memory is read by open() only, and written later; our own copy decides. Errors:
/// memory fault (the memory is gone), peer fault (no backend leaves such a record). Threads: one.
class PackedInflight {
 public:
  [[nodiscard]] static constexpr std::size_t region_bytes(std::uint32_t size) noexcept {
    return sizeof(Region) + sizeof(Entry) * size;
  }

  /// The state that an earlier backend left.
  struct Recovered {
    bool is_fresh = false;        ///< a new record
    virtio::PackedPosition used;  ///< position of the next used descriptor
    /// Descriptors of the chains in flight as fetched, oldest chain first.
    std::vector<std::vector<virtio::PackedDescriptor>> chains;
    std::uint32_t descriptors = 0;  ///< of all chains
  };

  /// Completes or reverts the last operation of an earlier backend. A new record starts with
  /// nothing in flight, at `used`.
  static Result<PackedInflight> open(std::byte* region, const virtio::PackedRing& ring,
                                     virtio::PackedPosition used, Recovered& recovered);

  /// A chain was popped. Requires: its id is below the size and not in flight; at most as many
  /// descriptors in flight as the ring has.
  Result<> note_popped(std::span<const virtio::PackedDescriptor> descriptors);
  /// The chains of these ids are about to be published, up to `used`.
  Result<> begin_publish(std::span<const std::uint16_t> ids, virtio::PackedPosition used);
  /// They were published.
  Result<> end_publish(std::span<const std::uint16_t> ids);

 private:
  // Fields that change together are written in one store: a backend killed between the halves of a
  // position would leave an invalid one.
  struct Heads {
    std::uint16_t free_head;
    std::uint16_t old_free_head;
  };
  struct Positions {
    std::uint16_t used_idx;
    std::uint16_t old_used_idx;
    std::uint8_t used_wrap_counter;
    std::uint8_t old_used_wrap_counter;
    std::uint8_t padding[2];
  };
  static_assert(sizeof(Heads) == 4 && sizeof(Positions) == 8);
  struct Region {
    std::uint64_t features;
    std::uint16_t version;
    std::uint16_t desc_num;
    Heads heads;
    Positions positions;
    std::uint8_t padding[8];
  };
  struct Entry {
    std::uint8_t inflight;
    std::uint8_t padding;
    std::uint16_t next;  // in the free list, or in a chain's entries
    std::uint16_t last;  // of a chain; valid in its first entry, as are num and counter
    std::uint16_t num;
    std::uint64_t counter;
    std::uint16_t id;
    std::uint16_t flags;
    std::uint32_t length;
    std::uint64_t address;
  };
  static_assert(sizeof(Region) == 32 && sizeof(Entry) == 32 && offsetof(Region, heads) == 12 &&
                offsetof(Region, positions) == 16 && offsetof(Entry, counter) == 8 &&
                offsetof(Entry, address) == 24);

  /// The entries of a chain in flight.
  struct ChainEntries {
    std::uint16_t first = 0;
    std::uint16_t last = 0;
  };
  class Recovery;

  PackedInflight(std::byte* region, std::uint16_t size);

  [[nodiscard]] Region* head() const noexcept;
  [[nodiscard]] Entry* entry(std::uint16_t index) const noexcept;
  Result<> format(virtio::PackedPosition used);
  /// `heads` as stored; the old positions are the valid ones.
  Result<> store(Heads heads, virtio::PackedPosition used, virtio::PackedPosition old_used);

  std::byte* region_;
  std::uint16_t size_;
  std::uint16_t free_head_ = 0;
  virtio::PackedPosition used_;       // after the batch being published
  virtio::PackedPosition old_used_;   // before that batch
  std::vector<std::uint16_t> next_;   // our copy of the entries' links
  std::vector<ChainEntries> chains_;  // by id
  std::uint64_t counter_ = 0;
};

}  // namespace guestio::vhost
