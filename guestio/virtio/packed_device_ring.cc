// SPDX-License-Identifier: MIT
#include "guestio/virtio/packed_device_ring.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <ranges>

#include "guestio/base/check.h"
#include "guestio/mem/recover.h"
#include "guestio/virtio/split_ring.h"

namespace guestio::virtio {

namespace {

Direction direction_of(const PackedDescriptor& descriptor) noexcept {
  return (descriptor.flags & kDescriptorWrite) != 0 ? Direction::kWritable : Direction::kReadable;
}

Chain::Append append(const PackedDescriptor& descriptor, Chain& chain) noexcept {
  return chain.append(Gpa(descriptor.address), descriptor.length, direction_of(descriptor));
}

/// The rest of a malformed chain, from the fault on. Cold: real drivers send none.
[[gnu::cold, gnu::noinline]] void append_malformed(std::span<const PackedDescriptor> rest,
                                                   Chain& chain) {
  for (const PackedDescriptor& descriptor : rest) {
    if ((descriptor.flags & kDescriptorIndirect) != 0) {
      // The driver may mean the bytes or the descriptors in them.
      chain.forget_last_writable();
    } else {
      chain.append_malformed(Gpa(descriptor.address), descriptor.length, direction_of(descriptor));
    }
  }
}

}  // namespace

PackedDeviceRing::PackedDeviceRing(const PackedRing& ring, FeatureBits features, PackedBase base)
    : ring_(ring),
      features_(features),
      max_descriptors_(std::max<std::uint32_t>(kMaxChainDescriptors, ring.size())),
      arena_(std::make_unique<ExtentArena>(max_descriptors_)),
      lengths_(ring.size()),
      next_avail_(base.avail),
      published_(base.used),
      next_used_(base.used),
      descriptors_in_flight_(base.avail.minus(base.used, ring.size())) {
  fetched_.reserve(ring.size());
  pending_used_.reserve(ring.size());
}

Result<PackedDeviceRing> PackedDeviceRing::create(const PackedRing& ring, FeatureBits features,
                                                  PackedBase base) {
  if (!base.is_valid(ring.size())) {
    return fail(Error::peer_fault("position outside the packed ring", base.to_word()));
  }
  return PackedDeviceRing(ring, features, base);
}

void PackedDeviceRing::move_to(const PackedRing& ring) noexcept {
  GUESTIO_CHECK(ring.size() == ring_.size(), "a ring of the same size");
  ring_ = ring;
}

/// Copies the next chain's descriptors, unchecked. Returns whether there is one.
Result<bool> PackedDeviceRing::fetch() {
  fetched_.clear();
  PackedPosition position = next_avail_;
  PackedTail tail{};
  if (!ring_.try_load_tail(position.index, tail))
    return fail_ring_access(ring_.tail(position.index));
  if (!position.is_available(tail.flags)) return false;
  for (std::uint32_t owned = ring_.size() - descriptors_in_flight_; owned != 0; --owned) {
    PackedDescriptor descriptor{
        .address = 0, .length = tail.length, .id = tail.id, .flags = tail.flags};
    if (!ring_.try_load_address(position.index, descriptor.address)) {
      return fail_ring_access(ring_.address(position.index));
    }
    fetched_.push_back(descriptor);
    if ((descriptor.flags & kDescriptorNext) == 0) return true;
    position = position.plus(1, ring_.size());
    if (!ring_.try_load_tail(position.index, tail))
      return fail_ring_access(ring_.tail(position.index));
  }
  return fail(Error::peer_fault("chain longer than the available descriptors", fetched_.size()));
}

Result<PopResult> PackedDeviceRing::pop(const mem::GuestMemory& memory, Chain& chain) {
  chain.clear();
  const auto fetched = fetch();
  if (!fetched) return fail(fetched.error());
  if (!*fetched) return PopResult::kNothing;
  const auto result = build_chain(memory, chain);
  if (!result || *result != PopResult::kChain) return result;
  const auto length = static_cast<std::uint32_t>(fetched_.size());
  next_avail_ = next_avail_.plus(length, ring_.size());
  descriptors_in_flight_ += length;
  return PopResult::kChain;
}

Result<PopResult> PackedDeviceRing::pop_resubmitted(std::span<const PackedDescriptor> descriptors,
                                                    const mem::GuestMemory& memory, Chain& chain) {
  chain.clear();
  if (descriptors.empty() || descriptors.size() > descriptors_in_flight_) {
    return fail(
        Error::peer_fault("more descriptors to resubmit than in flight", descriptors.size()));
  }
  fetched_.assign(descriptors.begin(), descriptors.end());
  return build_chain(memory, chain);
}

/// Builds a chain of the fetched descriptors.
Result<PopResult> PackedDeviceRing::build_chain(const mem::GuestMemory& memory, Chain& chain) {
  const std::uint16_t id = fetched_.back().id;
  if (id >= ring_.size()) return fail(Error::peer_fault("buffer id outside the ring", id));
  if (lengths_[id] != 0) return fail(Error::peer_fault("buffer id already in flight", id));
  chain.begin(id, *arena_);
  if (walk(memory, chain) == Walk::kNoRoom) {
    chain.clear();
    return PopResult::kNoRoom;
  }
  lengths_[id] = static_cast<std::uint16_t>(fetched_.size());
  ++in_flight_;
  return PopResult::kChain;
}

/// Adds consecutive descriptors to a chain.
PackedDeviceRing::Walk PackedDeviceRing::append_all(std::span<const PackedDescriptor> descriptors,
                                                    const char* table_fault, Chain& chain) {
  for (std::size_t i = 0; i < descriptors.size(); ++i) {
    const PackedDescriptor& descriptor = descriptors[i];
    Chain::Append appended = Chain::Append::kMalformed;
    if ((descriptor.flags & kDescriptorIndirect) != 0) [[unlikely]] {
      chain.mark_malformed(Error::peer_fault(table_fault, descriptor.flags));
    } else {
      appended = append(descriptor, chain);
    }
    if (appended != Chain::Append::kDone) [[unlikely]] {
      if (appended == Chain::Append::kNoRoom) return Walk::kNoRoom;
      append_malformed(descriptors.subspan(i), chain);
      return Walk::kMalformed;
    }
  }
  return Walk::kComplete;
}

PackedDeviceRing::Walk PackedDeviceRing::walk(const mem::GuestMemory& memory, Chain& chain) const {
  if (fetched_.size() == 1 && (fetched_.front().flags & kDescriptorIndirect) != 0) {
    return walk_indirect(fetched_.front(), memory, chain);
  }
  // 2.8.19: never in a list of descriptors.
  return append_all(fetched_, "indirect table in a list of descriptors", chain);
}

/// The entries of a table are one chain in table order. Of their flags only WRITE counts (2.8.7).
PackedDeviceRing::Walk PackedDeviceRing::walk_indirect(const PackedDescriptor& table,
                                                       const mem::GuestMemory& memory,
                                                       Chain& chain) const {
  const auto malformed = [&chain](const char* violation, std::uint64_t value) {
    chain.mark_malformed(Error::peer_fault(violation, value));
    return Walk::kMalformed;
  };
  if ((features_ & kFeatureIndirectDesc) == 0) {
    return malformed("indirect table without VIRTIO_F_INDIRECT_DESC", table.flags);
  }
  if (table.length == 0 || table.length % sizeof(PackedDescriptor) != 0) {
    return malformed("indirect table is empty or ends in a partial descriptor", table.length);
  }
  if (!Gpa(table.address).plus(table.length)) {
    return malformed("indirect table wraps around the address space", table.address);
  }
  const auto read_entries = [&](std::size_t first, std::span<PackedDescriptor> to) {
    return memory.read(Gpa(table.address).plus_unchecked(first * sizeof(PackedDescriptor)),
                       std::as_writable_bytes(to));
  };
  std::array<PackedDescriptor, 8> window;
  const std::size_t entries = table.length / sizeof(PackedDescriptor);
  if (entries > max_descriptors_) {
    // The length of a table shows its end, however long it is.
    const auto last = std::span(window).first(1);
    (void)malformed("too many descriptors in a chain", entries);
    if (read_entries(entries - 1, last)) append_malformed(last, chain);
    return Walk::kMalformed;
  }
  auto walked = Walk::kComplete;
  for (std::size_t done = 0; done < entries;) {
    const auto batch = std::span(window).first(std::min(window.size(), entries - done));
    if (const auto read = read_entries(done, batch); !read) {
      if (walked == Walk::kComplete) chain.mark_malformed(read.error());
      chain.forget_last_writable();
      return Walk::kMalformed;
    }
    if (walked == Walk::kComplete) {
      walked = append_all(batch, "indirect table inside another", chain);
      if (walked == Walk::kNoRoom) return walked;
    } else {
      append_malformed(batch, chain);
    }
    done += batch.size();
  }
  return walked;
}

Result<> PackedDeviceRing::withdraw_used() {
  GUESTIO_CHECK(pending_used_.empty(), "a ring before its first push");
  PackedPosition position = published_;
  for (std::uint32_t i = 0; i < descriptors_in_flight_;
       ++i, position = position.plus(1, ring_.size())) {
    PackedTail tail{};
    if (!ring_.try_load_tail(position.index, tail))
      return fail_ring_access(ring_.tail(position.index));
    if (!position.is_used(tail.flags)) continue;
    tail.flags = position.avail_flags();
    if (!ring_.try_store_tail(position.index, tail))
      return fail_ring_access(ring_.tail(position.index));
  }
  return {};
}

Result<> PackedDeviceRing::push_used(std::uint16_t id, std::uint32_t written) {
  GUESTIO_CHECK(id < lengths_.size() && lengths_[id] != 0, "a chain to be pushed once");
  // 2.8.5: WRITE is set if the device wrote something.
  const int write_flag = written != 0 ? kDescriptorWrite : 0;
  pending_used_.push_back(
      {.index = next_used_.index,
       .tail = {.length = written,
                .id = id,
                .flags = static_cast<std::uint16_t>(next_used_.used_flags() | write_flag)}});
  next_used_ = next_used_.plus(lengths_[id], ring_.size());
  lengths_[id] = 0;
  --in_flight_;
  return {};
}

Result<bool> PackedDeviceRing::publish() {
  if (pending_used_.empty()) return false;
  // The driver reads nothing after a descriptor that is not used yet: the first one is written
  // last.
  for (const UsedEntry& entry : pending_used_ | std::views::drop(1) | std::views::reverse) {
    if (!ring_.try_store_tail(entry.index, entry.tail)) {
      return fail_ring_access(ring_.tail(entry.index));
    }
  }
  const UsedEntry& first = pending_used_.front();
  if (!ring_.try_store_tail_release(first.index, first.tail)) {
    return fail_ring_access(ring_.tail(first.index));
  }
  const std::uint32_t count = next_used_.minus(published_, ring_.size());
  published_ = next_used_;
  descriptors_in_flight_ -= count;
  pending_used_.clear();
  // The descriptors are visible before the driver's suppression is read; the driver orders them the
  // other way round.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  std::uint32_t event = 0;
  if (!mem::try_load(ring_.driver_event(), event)) return fail_ring_access(ring_.driver_event());
  if (force_call_) {
    force_call_ = false;
    return true;
  }
  return needs_notification(std::bit_cast<PackedEvent>(event), features_, published_, count,
                            ring_.size());
}

Result<bool> PackedDeviceRing::enable_notifications() {
  const bool by_event = (features_ & kFeatureEventIdx) != 0;
  const PackedEvent event{.position = next_avail_.to_word(),
                          .flags = by_event ? kPackedEventDescriptor : kPackedEventEnable};
  if (!mem::try_store(ring_.device_event(), std::bit_cast<std::uint32_t>(event))) {
    return fail_ring_access(ring_.device_event());
  }
  // The event is visible before the ring is read; the driver orders them the other way round.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  PackedTail tail{};
  if (!ring_.try_load_tail(next_avail_.index, tail)) {
    return fail_ring_access(ring_.tail(next_avail_.index));
  }
  return next_avail_.is_available(tail.flags);
}

Result<> PackedDeviceRing::suppress_notifications() {
  const PackedEvent event{.position = 0, .flags = kPackedEventDisable};
  if (!mem::try_store(ring_.device_event(), std::bit_cast<std::uint32_t>(event))) {
    return fail_ring_access(ring_.device_event());
  }
  return {};
}

}  // namespace guestio::virtio
