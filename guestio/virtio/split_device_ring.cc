// SPDX-License-Identifier: MIT
#include "guestio/virtio/split_device_ring.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <span>

#include "guestio/base/check.h"
#include "guestio/mem/recover.h"

namespace guestio::virtio {

namespace {

/// Fetches a descriptor from a table in place: two loads, each byte once.
bool try_fetch(const Descriptor* from, Descriptor& to) noexcept {
  // A descriptor is 16 bytes, aligned to 16: two 8-byte integers.
  const auto* const words = reinterpret_cast<const std::uint64_t*>(from);
  std::array<std::uint64_t, 2> copy{};
  if (!mem::try_load(words, copy[0]) || !mem::try_load(words + 1, copy[1])) return false;
  to = std::bit_cast<Descriptor>(copy);
  return true;
}

/// An indirect table. Aligned and contiguous ones, the usual case, are read in place; others in
/// windows along the chain.
class IndirectTable {
 public:
  IndirectTable(const mem::GuestMemory& memory, Gpa start, std::uint32_t entries) noexcept
      : memory_(memory), start_(start), entries_(entries) {
    const std::byte* const host =
        memory.fast_host_range(start, std::uint64_t{entries} * sizeof(Descriptor));
    if (is_aligned(reinterpret_cast<std::uintptr_t>(host), alignof(Descriptor))) {
      in_place_ = reinterpret_cast<const Descriptor*>(host);
    }
  }

  /// Our copy of an entry. Requires: index < the table's entries.
  [[gnu::always_inline]] Result<> fetch(std::uint32_t index, Descriptor& to) {
    if (in_place_ != nullptr && try_fetch(in_place_ + index, to)) [[likely]]
      return {};
    return fetch_slowly(index, to);
  }

 private:
  [[gnu::noinline]] Result<> fetch_slowly(std::uint32_t index, Descriptor& to) {
    if (index - window_start_ >= window_length_) {
      const auto filled = fill_window(index);
      if (!filled) return fail(filled.error());
    }
    to = window_[index - window_start_];
    return {};
  }
  // Chains usually run upwards through their table: the next entries are needed next.
  Result<> fill_window(std::uint32_t index) {
    window_length_ = 0;
    const std::size_t count = std::min<std::size_t>(window_.size(), entries_ - index);
    const auto read = memory_.read(start_.plus_unchecked(std::uint64_t{index} * sizeof(Descriptor)),
                                   std::as_writable_bytes(std::span(window_).first(count)));
    if (!read) return fail(read.error());
    window_start_ = index;
    window_length_ = static_cast<std::uint32_t>(count);
    return {};
  }

  const mem::GuestMemory& memory_;
  const Gpa start_;
  const std::uint32_t entries_;
  const Descriptor* in_place_ = nullptr;
  std::array<Descriptor, 8> window_;
  std::uint32_t window_start_ = 0;
  std::uint32_t window_length_ = 0;
};

Direction direction_of(const Descriptor& descriptor) noexcept {
  return (descriptor.flags & kDescriptorWrite) != 0 ? Direction::kWritable : Direction::kReadable;
}

Chain::Append append(const Descriptor& descriptor, Chain& chain) noexcept {
  return chain.append(Gpa(descriptor.address), descriptor.length, direction_of(descriptor));
}

// The walk along a malformed chain, from the fault to its last writable byte. Cold: real drivers
// send none.

/// The longest chain of any ring: bounds the walk for a hostile driver.
constexpr std::uint32_t kMaxWalk = 32768;

void append_malformed(const Descriptor& descriptor, Chain& chain) noexcept {
  // The driver may mean the bytes or the descriptors in them.
  if ((descriptor.flags & kDescriptorIndirect) != 0) return chain.forget_last_writable();
  chain.append_malformed(Gpa(descriptor.address), descriptor.length, direction_of(descriptor));
}

/// Continues in an indirect table, with `fetched` entries before `at`.
[[gnu::cold, gnu::noinline]] void find_end_in_table(IndirectTable& table, std::uint32_t entries,
                                                    Descriptor at, std::uint32_t fetched,
                                                    Chain& chain) {
  const std::uint32_t limit = std::min(entries, kMaxWalk);
  while (true) {
    append_malformed(at, chain);
    if ((at.flags & kDescriptorNext) == 0) return;
    ++fetched;
    if (at.next >= entries || fetched >= limit || !table.fetch(at.next, at)) {
      return chain.forget_last_writable();
    }
  }
}

}  // namespace

SplitDeviceRing::SplitDeviceRing(const SplitRing& ring, FeatureBits features,
                                 std::uint16_t next_avail, std::uint16_t used_index)
    : ring_(ring),
      features_(features),
      max_descriptors_(std::max<std::uint32_t>(kMaxChainDescriptors, ring.size())),
      arena_(std::make_unique<ExtentArena>(max_descriptors_)),
      next_avail_(next_avail),
      kick_event_(next_avail),
      avail_seen_(next_avail),
      published_(used_index) {}

Result<SplitDeviceRing> SplitDeviceRing::create(const SplitRing& ring, FeatureBits features,
                                                std::uint16_t next_avail) {
  std::uint16_t used_index = 0;
  if (!mem::try_load(ring.used_index(), used_index)) return fail_ring_access(ring.used_index());
  return SplitDeviceRing(ring, features, next_avail, used_index);
}

void SplitDeviceRing::move_to(const SplitRing& ring) noexcept {
  GUESTIO_CHECK(ring.size() == ring_.size(), "a ring of the same size");
  ring_ = ring;
}

Result<bool> SplitDeviceRing::recheck() {
  std::uint16_t index = 0;
  // Acquire, with the driver's release of the index: the available chains are visible.
  if (!mem::try_load_acquire(ring_.avail_index(), index)) {
    return fail_ring_access(ring_.avail_index());
  }
  if (static_cast<std::uint16_t>(index - next_avail_) > ring_.size()) {
    return fail(Error::peer_fault("more available chains than the ring holds", index));
  }
  avail_seen_ = index;
  return avail_seen_ != next_avail_;
}

Result<bool> SplitDeviceRing::is_available() {
  if (avail_seen_ != next_avail_) return true;
  return recheck();
}

Result<PopResult> SplitDeviceRing::pop(const mem::GuestMemory& memory, Chain& chain) {
  chain.clear();
  const auto available = is_available();
  if (!available) return fail(available.error());
  if (!*available) return PopResult::kNothing;
  prefetch_ahead(memory);
  std::uint16_t head = 0;
  if (!mem::try_load(ring_.avail_head(next_avail_), head)) {
    return fail_ring_access(ring_.avail_head(next_avail_));
  }
  const auto result = build_chain(head, memory, chain);
  if (!result) return fail(result.error());
  if (*result == PopResult::kChain) ++next_avail_;
  // Not the Result as a whole: its copy would wait for the stores of its parts.
  return *result;
}

Result<PopResult> SplitDeviceRing::pop_resubmitted(std::uint16_t head,
                                                   const mem::GuestMemory& memory, Chain& chain) {
  chain.clear();
  return build_chain(head, memory, chain);
}

Result<PopResult> SplitDeviceRing::build_chain(std::uint16_t head, const mem::GuestMemory& memory,
                                               Chain& chain) {
  if (in_flight_ + pushed_ >= ring_.size()) {
    return fail(Error::peer_fault("more chains in flight than the ring holds", in_flight_));
  }
  if (head >= ring_.size()) return fail(Error::peer_fault("head outside the ring", head));
  chain.begin(head, *arena_);
  const auto walked = walk(head, memory, chain);
  if (!walked || *walked == Walk::kNoRoom) chain.clear();
  if (!walked) return fail(walked.error());
  if (*walked == Walk::kNoRoom) return PopResult::kNoRoom;
  ++in_flight_;
  return PopResult::kChain;
}

/// Prefetches the descriptors and tables of the next chains. The driver's processor has just
/// written them, and a first access would take as long as the rest of a chain's work. The values
/// read here are hints, and are read again.
void SplitDeviceRing::prefetch_ahead(const mem::GuestMemory& memory) const noexcept {
  constexpr std::uint16_t kDescriptorsAhead = 6;
  constexpr std::uint16_t kTablesAhead = 3;
  const auto available = static_cast<std::uint16_t>(avail_seen_ - next_avail_);
  std::uint16_t head = 0;
  const auto load_head = [&](std::uint16_t ahead) {
    return available > ahead &&
           mem::try_load(ring_.avail_head(static_cast<std::uint16_t>(next_avail_ + ahead)), head) &&
           head < ring_.size();
  };
  if (load_head(kDescriptorsAhead)) __builtin_prefetch(ring_.descriptor(head));
  if ((features_ & kFeatureIndirectDesc) == 0 || !load_head(kTablesAhead)) return;
  Descriptor descriptor{};
  if (!try_fetch(ring_.descriptor(head), descriptor)) return;
  if ((descriptor.flags & kDescriptorIndirect) == 0) return;
  const std::byte* const table = memory.fast_host_range(Gpa(descriptor.address), 1);
  if (table != nullptr) __builtin_prefetch(table);
}

Result<SplitDeviceRing::Walk> SplitDeviceRing::walk(std::uint16_t head,
                                                    const mem::GuestMemory& memory,
                                                    Chain& chain) const {
  std::uint16_t index = head;
  for (std::uint32_t fetched = 0; fetched < ring_.size(); ++fetched) {
    Descriptor descriptor{};
    if (!try_fetch(ring_.descriptor(index), descriptor)) {
      return fail_ring_access(ring_.descriptor(index));
    }
    if ((descriptor.flags & kDescriptorIndirect) != 0) {
      return walk_indirect(descriptor, fetched, memory, chain);
    }
    switch (append(descriptor, chain)) {
      case Chain::Append::kDone: break;
      case Chain::Append::kNoRoom: return Walk::kNoRoom;
      case Chain::Append::kMalformed: return find_end(descriptor, fetched, memory, chain);
    }
    if ((descriptor.flags & kDescriptorNext) == 0) return Walk::kComplete;
    if (descriptor.next >= ring_.size()) {
      return end_unknown(Error::peer_fault("next descriptor outside the table", descriptor.next),
                         chain);
    }
    index = descriptor.next;
  }
  return end_unknown(Error::peer_fault("chain loops", head), chain);
}

SplitDeviceRing::Walk SplitDeviceRing::walk_indirect(const Descriptor& table,
                                                     std::uint32_t fetched_before,
                                                     const mem::GuestMemory& memory,
                                                     Chain& chain) const {
  const auto malformed = [&](const char* violation, std::uint64_t value) {
    chain.mark_malformed(Error::peer_fault(violation, value));
    return find_end(table, fetched_before, memory, chain);
  };
  if ((features_ & kFeatureIndirectDesc) == 0) {
    return malformed("indirect table without VIRTIO_F_INDIRECT_DESC", table.flags);
  }
  if ((table.flags & kDescriptorNext) != 0) {
    return malformed("indirect table with NEXT", table.flags);
  }
  if (table.length == 0 || table.length % sizeof(Descriptor) != 0) {
    return malformed("indirect table is empty or ends in a partial descriptor", table.length);
  }
  if (!Gpa(table.address).plus(table.length)) {
    return malformed("indirect table wraps around the address space", table.address);
  }
  const auto entries = static_cast<std::uint32_t>(table.length / sizeof(Descriptor));
  IndirectTable descriptors(memory, Gpa(table.address), entries);
  const std::uint32_t limit = std::min(entries, max_descriptors_ - fetched_before);
  std::uint32_t index = 0;
  for (std::uint32_t fetched = 0; fetched < limit; ++fetched) {
    Descriptor descriptor{};
    if (auto copied = descriptors.fetch(index, descriptor); !copied) {
      return end_unknown(copied.error(), chain);
    }
    if ((descriptor.flags & kDescriptorIndirect) != 0) [[unlikely]] {
      chain.mark_malformed(Error::peer_fault("indirect table inside another", descriptor.flags));
      find_end_in_table(descriptors, entries, descriptor, fetched, chain);
      return Walk::kMalformed;
    }
    switch (append(descriptor, chain)) {
      case Chain::Append::kDone: break;
      case Chain::Append::kNoRoom: return Walk::kNoRoom;
      case Chain::Append::kMalformed:
        find_end_in_table(descriptors, entries, descriptor, fetched, chain);
        return Walk::kMalformed;
    }
    if ((descriptor.flags & kDescriptorNext) == 0) return Walk::kComplete;
    if (descriptor.next >= entries) {
      return end_unknown(
          Error::peer_fault("next descriptor outside the indirect table", descriptor.next), chain);
    }
    index = descriptor.next;
  }
  if (limit == entries) return end_unknown(Error::peer_fault("chain loops", entries), chain);
  chain.mark_malformed(Error::peer_fault("too many descriptors in a chain", entries));
  Descriptor descriptor{};
  if (!descriptors.fetch(index, descriptor)) {
    chain.forget_last_writable();
  } else {
    find_end_in_table(descriptors, entries, descriptor, limit, chain);
  }
  return Walk::kMalformed;
}

/// The chain is malformed, and its end is unknown.
SplitDeviceRing::Walk SplitDeviceRing::end_unknown(const Error& fault, Chain& chain) {
  chain.mark_malformed(fault);
  chain.forget_last_writable();
  return Walk::kMalformed;
}

/// Continues along a malformed chain in the ring's own table, with `fetched` descriptors before
/// `at`, and into an indirect table at its end.
SplitDeviceRing::Walk SplitDeviceRing::find_end(Descriptor at, std::uint32_t fetched,
                                                const mem::GuestMemory& memory,
                                                Chain& chain) const {
  const auto is_last_table = [this](const Descriptor& descriptor) {
    return (features_ & kFeatureIndirectDesc) != 0 &&
           (descriptor.flags & (kDescriptorIndirect | kDescriptorNext)) == kDescriptorIndirect &&
           Gpa(descriptor.address).plus(descriptor.length);
  };
  while (!is_last_table(at)) {
    append_malformed(at, chain);
    if ((at.flags & kDescriptorNext) == 0) return Walk::kMalformed;
    ++fetched;
    if (at.next >= ring_.size() || fetched >= ring_.size() ||
        !try_fetch(ring_.descriptor(at.next), at)) {
      chain.forget_last_writable();
      return Walk::kMalformed;
    }
  }
  // Of a table with a partial entry the entire ones: the links show the end of the chain.
  const auto entries = static_cast<std::uint32_t>(at.length / sizeof(Descriptor));
  IndirectTable table(memory, Gpa(at.address), entries);
  if (entries == 0 || !table.fetch(0, at)) {
    chain.forget_last_writable();
  } else {
    find_end_in_table(table, entries, at, 0, chain);
  }
  return Walk::kMalformed;
}

Result<> SplitDeviceRing::push_used(std::uint16_t head, std::uint32_t written) {
  GUESTIO_CHECK(in_flight_ > 0, "a chain to be pushed once");
  UsedElement* const element = ring_.used_element(static_cast<std::uint16_t>(published_ + pushed_));
  if (!mem::try_store(&element->id, std::uint32_t{head}) ||
      !mem::try_store(&element->length, written)) {
    return fail_ring_access(element);
  }
  --in_flight_;
  ++pushed_;
  return {};
}

Result<bool> SplitDeviceRing::publish() {
  if (pushed_ == 0) return false;
  const std::uint16_t before = published_;
  const auto after = static_cast<std::uint16_t>(before + pushed_);
  // Release, with the driver's acquire of the index: entries and data precede it.
  if (!mem::try_store_release(ring_.used_index(), after)) {
    return fail_ring_access(ring_.used_index());
  }
  published_ = after;
  pushed_ = 0;
  // The index is visible before the driver's suppression is read; the driver orders them the other
  // way round.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const auto is_needed = needs_call(before);
  if (is_needed && force_call_) {
    force_call_ = false;
    return true;
  }
  return is_needed;
}

Result<bool> SplitDeviceRing::needs_call(std::uint16_t before) const {
  if ((features_ & kFeatureEventIdx) != 0) {
    std::uint16_t event = 0;
    if (!mem::try_load(ring_.used_event(), event)) return fail_ring_access(ring_.used_event());
    return needs_notification(event, before, published_);
  }
  std::uint16_t flags = 0;
  if (!mem::try_load(ring_.avail_flags(), flags)) return fail_ring_access(ring_.avail_flags());
  return (flags & kAvailNoInterrupt) == 0;
}

Result<bool> SplitDeviceRing::enable_notifications() {
  const bool by_event = (features_ & kFeatureEventIdx) != 0;
  std::uint16_t* const word = by_event ? ring_.avail_event() : ring_.used_flags();
  if (!mem::try_store(word, by_event ? next_avail_ : std::uint16_t{0})) {
    return fail_ring_access(word);
  }
  kick_event_ = next_avail_;
  // The event is visible before the index is read; the driver orders them the other way round.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return recheck();
}

Result<> SplitDeviceRing::suppress_notifications() {
  if ((features_ & kFeatureEventIdx) != 0) {
    // A passed event will not match again soon. If no chain has come since it was set (a completion
    // ended the sleep), it is the next index and would match: move it back.
    if (kick_event_ != next_avail_) return {};
    --kick_event_;
    if (!mem::try_store(ring_.avail_event(), kick_event_)) {
      return fail_ring_access(ring_.avail_event());
    }
    return {};
  }
  if (!mem::try_store(ring_.used_flags(), kUsedNoNotify)) {
    return fail_ring_access(ring_.used_flags());
  }
  return {};
}

}  // namespace guestio::virtio
