// SPDX-License-Identifier: MIT
#include "guestio/virtio/split_driver_ring.h"

#include <array>
#include <atomic>
#include <bit>
#include <utility>

#include "guestio/base/check.h"
#include "guestio/mem/recover.h"

namespace guestio::virtio {

namespace {

bool try_put(Descriptor* to, const Descriptor& descriptor) noexcept {
  // A descriptor is 16 bytes, aligned to 16 in the ring and to at least 8 in our tables.
  auto* const words = reinterpret_cast<std::uint64_t*>(to);
  const auto copy = std::bit_cast<std::array<std::uint64_t, 2>>(descriptor);
  return mem::try_store(words, copy[0]) && mem::try_store(words + 1, copy[1]);
}

std::uint16_t flags_of(const DriverSegment& segment, bool last) noexcept {
  const auto write = segment.direction == Direction::kWritable ? kDescriptorWrite : 0;
  return static_cast<std::uint16_t>(write | (last ? 0 : kDescriptorNext));
}

}  // namespace

SplitDriverRing::SplitDriverRing(const SplitRing& ring, FeatureBits features,
                                 std::uint16_t first_index)
    : ring_(ring),
      features_(features),
      shadow_(ring.size()),
      free_count_(ring.size()),
      published_(first_index),
      next_used_(first_index),
      used_seen_(first_index) {
  for (std::size_t i = 0; i < shadow_.size(); ++i) {
    shadow_[i].next = static_cast<std::uint16_t>(i + 1);
  }
  scratch_.reserve(ring.size());
}

Result<SplitDriverRing> SplitDriverRing::create(const SplitRing& ring, FeatureBits features,
                                                std::uint16_t first_index) {
  struct Word {
    std::uint16_t* address;
    std::uint16_t value;
  };
  for (const Word& word :
       {Word{ring.avail_flags(), 0}, Word{ring.avail_index(), first_index},
        Word{ring.used_event(), first_index}, Word{ring.used_flags(), 0},
        Word{ring.used_index(), first_index}, Word{ring.avail_event(), first_index}}) {
    if (!mem::try_store(word.address, word.value)) return fail_ring_access(word.address);
  }
  return SplitDriverRing(ring, features, first_index);
}

Result<std::uint16_t> SplitDriverRing::add(std::span<const DriverSegment> segments) {
  GUESTIO_CHECK(!segments.empty(), "a chain of at least one segment");
  scratch_.clear();
  for (std::size_t i = 0; i < segments.size(); ++i) {
    scratch_.push_back({.address = segments[i].address.raw(),
                        .length = segments[i].length,
                        .flags = flags_of(segments[i], i + 1 == segments.size()),
                        .next = 0});
  }
  return put(scratch_);
}

Result<std::uint16_t> SplitDriverRing::add_indirect(std::span<const DriverSegment> segments,
                                                    const DriverTable& table) {
  GUESTIO_CHECK((features_ & kFeatureIndirectDesc) != 0, "indirect tables to be negotiated");
  GUESTIO_CHECK(!segments.empty() && segments.size() <= table.capacity,
                "a chain that fits its table");
  for (std::size_t i = 0; i < segments.size(); ++i) {
    const Descriptor entry{.address = segments[i].address.raw(),
                           .length = segments[i].length,
                           .flags = flags_of(segments[i], i + 1 == segments.size()),
                           .next = static_cast<std::uint16_t>(i + 1)};
    if (!try_put(table.host + i, entry)) return fail_ring_access(table.host + i);
  }
  const Descriptor whole{.address = table.address.raw(),
                         .length = static_cast<std::uint32_t>(segments.size() * sizeof(Descriptor)),
                         .flags = kDescriptorIndirect,
                         .next = 0};
  return put({&whole, 1});
}

Result<std::uint16_t> SplitDriverRing::put(std::span<const Descriptor> descriptors) {
  if (descriptors.size() > free_count_) return fail(ErrorKind::kBusy, "add a chain to the ring");
  const std::uint16_t head = free_head_;
  std::uint16_t index = head;
  for (const Descriptor& descriptor : descriptors) {
    Descriptor linked = descriptor;
    linked.next = (descriptor.flags & kDescriptorNext) != 0 ? shadow_[index].next : 0;
    if (!try_put(ring_.descriptor(index), linked)) {
      return fail_ring_access(ring_.descriptor(index));
    }
    index = shadow_[index].next;
  }
  std::uint16_t* const slot = ring_.avail_head(static_cast<std::uint16_t>(published_ + added_));
  if (!mem::try_store(slot, head)) return fail_ring_access(slot);
  shadow_[head].length = static_cast<std::uint16_t>(descriptors.size());
  free_head_ = index;
  free_count_ = static_cast<std::uint16_t>(free_count_ - descriptors.size());
  ++added_;
  ++in_flight_;
  return head;
}

Result<bool> SplitDriverRing::publish() {
  if (added_ == 0) return false;
  const std::uint16_t before = published_;
  const auto after = static_cast<std::uint16_t>(before + added_);
  // Release, with the device's acquire of the index: descriptors and data precede it.
  if (!mem::try_store_release(ring_.avail_index(), after)) {
    return fail_ring_access(ring_.avail_index());
  }
  published_ = after;
  added_ = 0;
  // The index is visible before the device's suppression is read; the device orders them the other
  // way round.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const bool by_event = (features_ & kFeatureEventIdx) != 0;
  std::uint16_t* const word = by_event ? ring_.avail_event() : ring_.used_flags();
  std::uint16_t value = 0;
  if (!mem::try_load(word, value)) return fail_ring_access(word);
  return by_event ? needs_notification(value, before, after) : (value & kUsedNoNotify) == 0;
}

Result<bool> SplitDriverRing::check_used() {
  std::uint16_t index = 0;
  // Acquire, with the device's release of the index: entries and data are visible.
  if (!mem::try_load_acquire(ring_.used_index(), index)) {
    return fail_ring_access(ring_.used_index());
  }
  const auto count = static_cast<std::uint16_t>(index - next_used_);
  if (count > in_flight_ - added_) {
    return fail(Error::peer_fault("more chains returned than in flight", count));
  }
  used_seen_ = index;
  return count != 0;
}

Result<std::optional<DriverUsed>> SplitDriverRing::reap() {
  if (used_seen_ == next_used_) {
    const auto any = check_used();
    if (!any) return fail(any.error());
    if (!*any) return std::nullopt;
  }
  const UsedElement* const element = ring_.used_element(next_used_);
  UsedElement used{};
  if (!mem::try_load(&element->id, used.id) || !mem::try_load(&element->length, used.length)) {
    return fail_ring_access(element);
  }
  if (used.id >= ring_.size() || shadow_[used.id].length == 0) {
    return fail(Error::peer_fault("returned chain is not in flight", used.id));
  }
  const auto head = static_cast<std::uint16_t>(used.id);
  free_chain(head);
  ++next_used_;
  --in_flight_;
  return DriverUsed{head, used.length};
}

void SplitDriverRing::free_chain(std::uint16_t head) noexcept {
  std::uint16_t last = head;
  const std::uint16_t length = std::exchange(shadow_[head].length, std::uint16_t{0});
  for (std::uint16_t i = 1; i < length; ++i) last = shadow_[last].next;
  shadow_[last].next = free_head_;
  free_head_ = head;
  free_count_ = static_cast<std::uint16_t>(free_count_ + length);
}

Result<bool> SplitDriverRing::enable_calls() {
  const bool by_event = (features_ & kFeatureEventIdx) != 0;
  std::uint16_t* const word = by_event ? ring_.used_event() : ring_.avail_flags();
  if (!mem::try_store(word, by_event ? next_used_ : std::uint16_t{0})) {
    return fail_ring_access(word);
  }
  // The event is visible before the index is read; the device orders them the other way round.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return check_used();
}

Result<> SplitDriverRing::suppress_calls() {
  // With an event index, the last event is passed and will not match again soon.
  if ((features_ & kFeatureEventIdx) != 0) return {};
  if (!mem::try_store(ring_.avail_flags(), kAvailNoInterrupt)) {
    return fail_ring_access(ring_.avail_flags());
  }
  return {};
}

}  // namespace guestio::virtio
