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

/// The rest of a malformed chain, from the fault on. Cold: drivers that live send none.
[[gnu::cold, gnu::noinline]] void add_malformed(std::span<const PackedDescriptor> rest,
                                                Chain& chain) {
  for (const PackedDescriptor& descriptor : rest) {
    if ((descriptor.flags & kDescriptorIndirect) != 0) {
      // Its driver may mean the bytes there or the descriptors.
      chain.forget_last_writable();
    } else {
      chain.add_malformed(Gpa(descriptor.address), descriptor.length, direction_of(descriptor));
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
      descriptors_out_(base.avail.minus(base.used, ring.size())) {
  fetched_.reserve(ring.size());
  answers_.reserve(ring.size());
}

Result<PackedDeviceRing> PackedDeviceRing::create(const PackedRing& ring, FeatureBits features,
                                                  PackedBase base) {
  if (!base.is_valid(ring.size())) {
    return fail(Error::peer_fault("place outside a packed ring", base.to_word()));
  }
  return PackedDeviceRing(ring, features, base);
}

void PackedDeviceRing::move_to(const PackedRing& ring) noexcept {
  GUESTIO_CHECK(ring.size() == ring_.size(), "a ring of the same size");
  ring_ = ring;
}

/// Copies the next chain's descriptors, whatever they say. Returns whether there is one.
Result<bool> PackedDeviceRing::fetch() {
  fetched_.clear();
  PackedPosition place = next_avail_;
  PackedTail tail{};
  if (!ring_.try_load_tail(place.index, tail)) return fail_ring_access(ring_.tail(place.index));
  if (!place.is_available(tail.flags)) return false;
  for (std::uint32_t owned = ring_.size() - descriptors_out_; owned != 0; --owned) {
    PackedDescriptor descriptor{
        .address = 0, .length = tail.length, .id = tail.id, .flags = tail.flags};
    if (!ring_.try_load_address(place.index, descriptor.address)) {
      return fail_ring_access(ring_.address(place.index));
    }
    fetched_.push_back(descriptor);
    if ((descriptor.flags & kDescriptorNext) == 0) return true;
    place = place.plus(1, ring_.size());
    if (!ring_.try_load_tail(place.index, tail)) return fail_ring_access(ring_.tail(place.index));
  }
  return fail(Error::peer_fault("chain that is longer than what the driver has", fetched_.size()));
}

Result<PopResult> PackedDeviceRing::pop(const mem::GuestMemory& memory, Chain& chain) {
  chain.clear();
  const auto fetched = fetch();
  if (!fetched) return fail(fetched.error());
  if (!*fetched) return PopResult::kNothing;
  const auto taken = take(memory, chain);
  if (!taken || *taken != PopResult::kChain) return taken;
  const auto length = static_cast<std::uint32_t>(fetched_.size());
  next_avail_ = next_avail_.plus(length, ring_.size());
  descriptors_out_ += length;
  return PopResult::kChain;
}

Result<PopResult> PackedDeviceRing::pop_again(std::span<const PackedDescriptor> descriptors,
                                              const mem::GuestMemory& memory, Chain& chain) {
  chain.clear();
  if (descriptors.empty() || descriptors.size() > descriptors_out_) {
    return fail(Error::peer_fault("number of descriptors that were in flight", descriptors.size()));
  }
  fetched_.assign(descriptors.begin(), descriptors.end());
  return take(memory, chain);
}

/// Makes a chain of what was fetched.
Result<PopResult> PackedDeviceRing::take(const mem::GuestMemory& memory, Chain& chain) {
  const std::uint16_t id = fetched_.back().id;
  if (id >= ring_.size()) return fail(Error::peer_fault("buffer id outside the ring", id));
  if (lengths_[id] != 0) return fail(Error::peer_fault("buffer id that is in flight", id));
  chain.begin(id, *arena_);
  if (walk(memory, chain) == Walk::kNoRoom) {
    chain.clear();
    return PopResult::kNoRoom;
  }
  lengths_[id] = static_cast<std::uint16_t>(fetched_.size());
  ++in_flight_;
  return PopResult::kChain;
}

/// Adds descriptors that stand one behind the other to a chain, malformed or not yet.
PackedDeviceRing::Walk PackedDeviceRing::append_all(std::span<const PackedDescriptor> descriptors,
                                                    const char* fault_of_table, Chain& chain) {
  for (std::size_t i = 0; i < descriptors.size(); ++i) {
    const PackedDescriptor& descriptor = descriptors[i];
    Chain::Append appended = Chain::Append::kMalformed;
    if ((descriptor.flags & kDescriptorIndirect) != 0) [[unlikely]] {
      chain.mark_malformed(Error::peer_fault(fault_of_table, descriptor.flags));
    } else {
      appended = append(descriptor, chain);
    }
    if (appended != Chain::Append::kDone) [[unlikely]] {
      if (appended == Chain::Append::kNoRoom) return Walk::kNoRoom;
      add_malformed(descriptors.subspan(i), chain);
      return Walk::kMalformed;
    }
  }
  return Walk::kWhole;
}

PackedDeviceRing::Walk PackedDeviceRing::walk(const mem::GuestMemory& memory, Chain& chain) const {
  if (fetched_.size() == 1 && (fetched_.front().flags & kDescriptorIndirect) != 0) {
    return walk_indirect(fetched_.front(), memory, chain);
  }
  // 2.8.19: never in a list of descriptors.
  return append_all(fetched_, "indirect table among other descriptors", chain);
}

/// The entries of a table are one chain in the order they stand in; of their flags only the one
/// that says who writes means something (2.8.7).
PackedDeviceRing::Walk PackedDeviceRing::walk_indirect(const PackedDescriptor& table,
                                                       const mem::GuestMemory& memory,
                                                       Chain& chain) const {
  const auto malformed = [&chain](const char* rule, std::uint64_t value) {
    chain.mark_malformed(Error::peer_fault(rule, value));
    return Walk::kMalformed;
  };
  if ((features_ & kFeatureIndirectDesc) == 0) {
    return malformed("indirect table that was not negotiated", table.flags);
  }
  if (table.length == 0 || table.length % sizeof(PackedDescriptor) != 0) {
    return malformed("indirect table with a part of a descriptor", table.length);
  }
  if (!Gpa(table.address).plus(table.length)) {
    return malformed("indirect table that wraps around the addresses", table.address);
  }
  const auto read_entries = [&](std::size_t first, std::span<PackedDescriptor> to) {
    return memory.read(Gpa(table.address).plus_unchecked(first * sizeof(PackedDescriptor)),
                       std::as_writable_bytes(to));
  };
  std::array<PackedDescriptor, 8> window;
  const std::size_t entries = table.length / sizeof(PackedDescriptor);
  if (entries > max_descriptors_) {
    // The table says where it ends, however long it is.
    const auto last = std::span(window).first(1);
    (void)malformed("chain of too many descriptors", entries);
    if (read_entries(entries - 1, last)) add_malformed(last, chain);
    return Walk::kMalformed;
  }
  auto walked = Walk::kWhole;
  for (std::size_t done = 0; done < entries;) {
    const auto some = std::span(window).first(std::min(window.size(), entries - done));
    if (const auto read = read_entries(done, some); !read) {
      if (walked == Walk::kWhole) chain.mark_malformed(read.error());
      chain.forget_last_writable();
      return Walk::kMalformed;
    }
    if (walked == Walk::kWhole) {
      walked = append_all(some, "indirect table inside another", chain);
      if (walked == Walk::kNoRoom) return walked;
    } else {
      add_malformed(some, chain);
    }
    done += some.size();
  }
  return walked;
}

Result<> PackedDeviceRing::withdraw_answers() {
  GUESTIO_CHECK(answers_.empty(), "a queue that has pushed nothing yet");
  PackedPosition place = published_;
  for (std::uint32_t i = 0; i < descriptors_out_; ++i, place = place.plus(1, ring_.size())) {
    PackedTail tail{};
    if (!ring_.try_load_tail(place.index, tail)) return fail_ring_access(ring_.tail(place.index));
    if (!place.is_used(tail.flags)) continue;
    tail.flags = place.avail_flags();
    if (!ring_.try_store_tail(place.index, tail)) return fail_ring_access(ring_.tail(place.index));
  }
  return {};
}

Result<> PackedDeviceRing::push_used(std::uint16_t id, std::uint32_t written) {
  GUESTIO_CHECK(id < lengths_.size() && lengths_[id] != 0, "a chain that is pushed once");
  // 2.8.5: the flag that says who wrote is set when the device wrote something.
  const int write_flag = written != 0 ? kDescriptorWrite : 0;
  answers_.push_back(
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
  if (answers_.empty()) return false;
  // The driver does not look behind an answer that is not there: the first comes last.
  for (const Answer& answer : answers_ | std::views::drop(1) | std::views::reverse) {
    if (!ring_.try_store_tail(answer.index, answer.tail)) {
      return fail_ring_access(ring_.tail(answer.index));
    }
  }
  const Answer& first = answers_.front();
  if (!ring_.try_store_tail_release(first.index, first.tail)) {
    return fail_ring_access(ring_.tail(first.index));
  }
  const std::uint32_t count = next_used_.minus(published_, ring_.size());
  published_ = next_used_;
  descriptors_out_ -= count;
  answers_.clear();
  // The answers must be out before the driver's wish is read; the driver does it the other way
  // round.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  std::uint32_t wish = 0;
  if (!mem::try_load(ring_.driver_event(), wish)) return fail_ring_access(ring_.driver_event());
  if (force_call_) {
    force_call_ = false;
    return true;
  }
  return needs_notification(std::bit_cast<PackedEvent>(wish), features_, published_, count,
                            ring_.size());
}

Result<bool> PackedDeviceRing::enable_notifications() {
  const bool by_event = (features_ & kFeatureEventIdx) != 0;
  const PackedEvent wish{.position = next_avail_.to_word(),
                         .flags = by_event ? kPackedEventDescriptor : kPackedEventEnable};
  if (!mem::try_store(ring_.device_event(), std::bit_cast<std::uint32_t>(wish))) {
    return fail_ring_access(ring_.device_event());
  }
  // The wish must be out before the ring is read; the driver does it the other way round.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  PackedTail tail{};
  if (!ring_.try_load_tail(next_avail_.index, tail)) {
    return fail_ring_access(ring_.tail(next_avail_.index));
  }
  return next_avail_.is_available(tail.flags);
}

Result<> PackedDeviceRing::suppress_notifications() {
  const PackedEvent wish{.position = 0, .flags = kPackedEventDisable};
  if (!mem::try_store(ring_.device_event(), std::bit_cast<std::uint32_t>(wish))) {
    return fail_ring_access(ring_.device_event());
  }
  return {};
}

}  // namespace guestio::virtio
