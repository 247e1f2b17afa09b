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

/// The in-flight record of one packed ring: copies of the descriptors that were taken, since
/// answers overwrite those in the ring. Its fields are written in the order of the vhost-user
/// document, so that a backend that is killed between any two of them leaves what the next one can
/// make sense of.
///
/// Entries that hold nothing form a list from free_head. The "old" fields are what counts until an
/// answer was seen: a take moves old_free_head when it is complete, answers move all three when
/// they are out. No chain is taken while answers are under way.
///
/// Memory that the front-end shares is read when the record is opened, and only written later: what
/// decides afterwards is our own copy. Errors: memory fault (it was taken away), peer fault (it
/// cannot be what a backend left). Threads: one.
class PackedInflight {
 public:
  [[nodiscard]] static constexpr std::size_t region_bytes(std::uint32_t size) noexcept {
    return sizeof(Region) + sizeof(Entry) * size;
  }

  /// What the backend before left.
  struct Left {
    bool is_fresh = false;        ///< nothing: the record is new
    virtio::PackedPosition used;  ///< where answers go on
    /// Chains that were taken and not answered, oldest first, as they were fetched.
    std::vector<std::vector<virtio::PackedDescriptor>> chains;
    std::uint32_t descriptors = 0;  ///< in all of them
  };

  /// Finishes or undoes what the backend before was doing with the ring. A record that nobody wrote
  /// into yet begins with nothing in flight, at `used`.
  static Result<PackedInflight> open(std::byte* region, const virtio::PackedRing& ring,
                                     virtio::PackedPosition used, Left& left);

  /// A chain was taken from the ring. Requires: its id is below the size and not in flight, and
  /// there are not more descriptors in flight than the ring has.
  Result<> take(std::span<const virtio::PackedDescriptor> descriptors);
  /// Answers for these ids are about to be shown, up to `used`.
  Result<> begin_answers(std::span<const std::uint16_t> ids, virtio::PackedPosition used);
  /// They were shown.
  Result<> end_answers(std::span<const std::uint16_t> ids);

 private:
  // Fields that belong together stand together, and are written in one store: a backend that dies
  // between the halves of a place would leave one that never was.
  struct Heads {
    std::uint16_t free_head;
    std::uint16_t old_free_head;
  };
  struct Places {
    std::uint16_t used_idx;
    std::uint16_t old_used_idx;
    std::uint8_t used_wrap_counter;
    std::uint8_t old_used_wrap_counter;
    std::uint8_t padding[2];
  };
  static_assert(sizeof(Heads) == 4 && sizeof(Places) == 8);
  struct Region {
    std::uint64_t features;
    std::uint16_t version;
    std::uint16_t desc_num;
    Heads heads;
    Places places;
    std::uint8_t padding[8];
  };
  struct Entry {
    std::uint8_t inflight;
    std::uint8_t padding;
    std::uint16_t next;  // in the list of free entries, or in a chain's row of entries
    std::uint16_t last;  // of a chain; in its first entry, as are num and counter
    std::uint16_t num;
    std::uint64_t counter;
    std::uint16_t id;
    std::uint16_t flags;
    std::uint32_t length;
    std::uint64_t address;
  };
  static_assert(sizeof(Region) == 32 && sizeof(Entry) == 32 && offsetof(Region, heads) == 12 &&
                offsetof(Region, places) == 16 && offsetof(Entry, counter) == 8 &&
                offsetof(Entry, address) == 24);

  /// A chain while it is in flight, by id.
  struct Row {
    std::uint16_t first = 0;
    std::uint16_t last = 0;
  };
  class Opening;

  PackedInflight(std::byte* region, std::uint16_t size);

  [[nodiscard]] Region* head() const noexcept;
  [[nodiscard]] Entry* entry(std::uint16_t index) const noexcept;
  Result<> format(virtio::PackedPosition used);
  /// `heads` as they are stored; the old places are those that count.
  Result<> store(Heads heads, virtio::PackedPosition used, virtio::PackedPosition old_used);

  std::byte* region_;
  std::uint16_t size_;
  std::uint16_t free_head_ = 0;
  virtio::PackedPosition used_;      // behind the answers under way
  virtio::PackedPosition old_used_;  // before them
  std::vector<std::uint16_t> next_;  // our copy of the entries' links
  std::vector<Row> rows_;
  std::uint64_t counter_ = 0;
};

}  // namespace guestio::vhost
