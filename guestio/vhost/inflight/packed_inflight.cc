// SPDX-License-Identifier: MIT
#include "guestio/vhost/inflight/packed_inflight.h"

#include <algorithm>

#include "guestio/mem/recover.h"

namespace guestio::vhost {

using virtio::PackedDescriptor;
using virtio::PackedPosition;
using virtio::PackedRing;

PackedInflight::PackedInflight(std::byte* region, std::uint16_t size)
    : region_(region), size_(size), next_(size), chains_(size) {}

// A region is aligned to 64 bytes, and consists of integers: any bytes are valid.
PackedInflight::Region* PackedInflight::head() const noexcept {
  return reinterpret_cast<Region*>(region_);
}
PackedInflight::Entry* PackedInflight::entry(std::uint16_t index) const noexcept {
  return reinterpret_cast<Entry*>(region_ + sizeof(Region)) + index;
}

Result<> PackedInflight::format(PackedPosition used) {
  for (std::uint16_t i = 0; i < size_; ++i) {
    next_[i] = static_cast<std::uint16_t>(i + 1);
    if (!mem::try_store(&entry(i)->inflight, std::uint8_t{0}) ||
        !mem::try_store(&entry(i)->next, next_[i])) {
      return fail_record_access();
    }
  }
  used_ = old_used_ = used;
  // The version last: without it nothing else counts.
  if (!mem::try_store(&head()->desc_num, size_)) return fail_record_access();
  if (auto stored = store({.free_head = 0, .old_free_head = 0}, used, used); !stored) return stored;
  if (!mem::try_store(&head()->version, kInflightVersion)) return fail_record_access();
  return {};
}

Result<> PackedInflight::store(Heads heads, PackedPosition used, PackedPosition old_used) {
  const Positions positions{
      .used_idx = used.index,
      .old_used_idx = old_used.index,
      .used_wrap_counter = used.wrap ? std::uint8_t{1} : std::uint8_t{0},
      .old_used_wrap_counter = old_used.wrap ? std::uint8_t{1} : std::uint8_t{0},
      .padding = {}};
  if (!mem::try_store(&head()->heads, heads) || !mem::try_store(&head()->positions, positions)) {
    return fail_record_access();
  }
  return {};
}

/// Reads and checks the record of an earlier backend. Reads each value once.
class PackedInflight::Recovery {
 public:
  Recovery(PackedInflight& record, const PackedRing& ring)
      : record_(record), ring_(ring), seen_(record.size_) {}

  Result<> run(Recovered& recovered) {
    auto done = read_positions();
    if (done) done = settle_last_batch();
    if (done) done = walk_free_list();
    if (done) done = collect(recovered);
    return done;
  }

 private:
  Result<> read_positions() {
    Positions positions{};
    if (!mem::try_load(&record_.head()->heads, heads_) ||
        !mem::try_load(&record_.head()->positions, positions)) {
      return fail_record_access();
    }
    if (positions.used_idx >= record_.size_ || positions.old_used_idx >= record_.size_ ||
        positions.used_wrap_counter > 1 || positions.old_used_wrap_counter > 1) {
      return fail(
          Error::peer_fault("invalid positions in an in-flight record", positions.used_idx));
    }
    used_ = {.index = positions.used_idx, .wrap = positions.used_wrap_counter != 0};
    old_used_ = {.index = positions.old_used_idx, .wrap = positions.old_used_wrap_counter != 0};
    return {};
  }

  /// The last batch was published, or it was not.
  Result<> settle_last_batch() {
    if (used_ != old_used_) {
      virtio::PackedTail tail{};
      if (!ring_.try_load_tail(old_used_.index, tail)) return fail_record_access();
      if (!old_used_.is_available(tail.flags)) {
        old_used_ = used_;
        heads_.old_free_head = heads_.free_head;
      }
    }
    heads_.free_head = heads_.old_free_head;
    record_.free_head_ = heads_.free_head;
    record_.used_ = record_.old_used_ = old_used_;
    // A backend killed between the two stores repeats this.
    return record_.store(heads_, old_used_, old_used_);
  }

  /// Free entries hold nothing, whatever their marks.
  Result<> walk_free_list() {
    std::uint16_t index = record_.free_head_;
    while (index < record_.size_) {
      if (seen_[index]) return fail(Error::peer_fault("free list on record loops", index));
      if (!mem::try_store(&record_.entry(index)->inflight, std::uint8_t{0}))
        return fail_record_access();
      const auto next = visit(index);
      if (!next) return fail(next.error());
      index = *next;
    }
    if (index != record_.size_) {
      return fail(Error::peer_fault("invalid link in an in-flight record", index));
    }
    return {};
  }

  /// Marks an entry as seen. Returns its link.
  Result<std::uint16_t> visit(std::uint16_t index) {
    seen_[index] = true;
    ++count_;
    if (!mem::try_load(&record_.entry(index)->next, record_.next_[index]))
      return fail_record_access();
    return record_.next_[index];
  }

  struct Chain {
    std::uint64_t counter = 0;
    std::vector<PackedDescriptor> descriptors;
  };

  Result<> collect(Recovered& recovered) {
    std::vector<Chain> chains;
    std::vector<bool> ids(record_.size_);
    for (std::uint16_t i = 0; i < record_.size_; ++i) {
      std::uint8_t inflight = 0;
      if (!mem::try_load(&record_.entry(i)->inflight, inflight)) return fail_record_access();
      if (seen_[i] || inflight == 0) continue;
      auto chain = read_chain(i);
      if (!chain) return fail(chain.error());
      const std::uint16_t id = chain->descriptors.back().id;
      if (id >= record_.size_ || ids[id]) {
        return fail(Error::peer_fault("invalid buffer id on record", id));
      }
      ids[id] = true;
      record_.chains_[id] = {.first = i, .last = last_};
      chains.push_back(std::move(*chain));
    }
    if (count_ != record_.size_) {
      return fail(Error::peer_fault("lost entries in an in-flight record", count_));
    }
    std::ranges::sort(chains, {}, &Chain::counter);
    if (!chains.empty()) record_.counter_ = chains.back().counter + 1;
    recovered.used = record_.used_;
    for (Chain& chain : chains) {
      recovered.descriptors += static_cast<std::uint32_t>(chain.descriptors.size());
      recovered.chains.push_back(std::move(chain.descriptors));
    }
    return {};
  }

  Result<Chain> read_chain(std::uint16_t index) {
    std::uint16_t num = 0;
    Chain chain;
    if (!mem::try_load(&record_.entry(index)->num, num) ||
        !mem::try_load(&record_.entry(index)->counter, chain.counter)) {
      return fail_record_access();
    }
    if (num == 0) return fail(Error::peer_fault("empty chain on record", index));
    for (; num != 0; --num) {
      if (index >= record_.size_ || seen_[index]) {
        return fail(Error::peer_fault("chain on record leaves its entries", index));
      }
      const Entry* const from = record_.entry(index);
      PackedDescriptor& to = chain.descriptors.emplace_back();
      if (!mem::try_load(&from->address, to.address) || !mem::try_load(&from->length, to.length) ||
          !mem::try_load(&from->id, to.id) || !mem::try_load(&from->flags, to.flags)) {
        return fail_record_access();
      }
      last_ = index;
      const auto next = visit(index);
      if (!next) return fail(next.error());
      index = *next;
    }
    return chain;
  }

  PackedInflight& record_;
  const PackedRing& ring_;
  std::vector<bool> seen_;
  std::uint32_t count_ = 0;
  std::uint16_t last_ = 0;  // entry of the last chain
  Heads heads_{};
  PackedPosition used_;
  PackedPosition old_used_;
};

Result<PackedInflight> PackedInflight::open(std::byte* region, const PackedRing& ring,
                                            PackedPosition used, Recovered& recovered) {
  recovered = {.is_fresh = false, .used = used, .chains = {}, .descriptors = 0};
  PackedInflight record(region, ring.size());
  std::uint16_t version = 0;
  std::uint16_t desc_num = 0;
  if (!mem::try_load(&record.head()->version, version) ||
      !mem::try_load(&record.head()->desc_num, desc_num)) {
    return fail_record_access();
  }
  Result<> done;
  if (version == 0) {
    recovered.is_fresh = true;
    done = record.format(used);
  } else if (version != kInflightVersion || desc_num != ring.size()) {
    done = fail(Error::peer_fault("in-flight record of a ring of another size", desc_num));
  } else {
    done = Recovery(record, ring).run(recovered);
  }
  if (!done) return fail(done.error());
  return record;
}

Result<> PackedInflight::note_popped(std::span<const PackedDescriptor> descriptors) {
  const std::uint16_t first = free_head_;
  Entry* const start = entry(first);
  if (!mem::try_store(&start->num, std::uint16_t{0}) ||
      !mem::try_store(&start->counter, counter_) ||
      !mem::try_store(&start->inflight, std::uint8_t{1})) {
    return fail_record_access();
  }
  std::uint16_t index = first;
  std::uint16_t last = first;
  std::uint16_t count = 0;
  for (const PackedDescriptor& descriptor : descriptors) {
    Entry* const to = entry(index);
    last = index;
    if (!mem::try_store(&start->num, ++count) ||
        !mem::try_store(&to->address, descriptor.address) ||
        !mem::try_store(&to->length, descriptor.length) ||
        !mem::try_store(&to->flags, descriptor.flags) || !mem::try_store(&to->id, descriptor.id)) {
      return fail_record_access();
    }
    index = next_[index];
  }
  free_head_ = index;
  // From this store on the chain is in flight.
  if (!mem::try_store(&start->last, last) ||
      !mem::try_store(&head()->heads, Heads{.free_head = index, .old_free_head = index})) {
    return fail_record_access();
  }
  chains_[descriptors.back().id] = {.first = first, .last = last};
  ++counter_;
  return {};
}

Result<> PackedInflight::begin_publish(std::span<const std::uint16_t> ids, PackedPosition used) {
  const std::uint16_t old_free_head = free_head_;
  for (const std::uint16_t id : ids) {
    const ChainEntries& entries = chains_[id];
    next_[entries.last] = free_head_;
    if (!mem::try_store(&entry(entries.last)->next, free_head_)) return fail_record_access();
    free_head_ = entries.first;
  }
  used_ = used;
  return store({.free_head = free_head_, .old_free_head = old_free_head}, used_, old_used_);
}

Result<> PackedInflight::end_publish(std::span<const std::uint16_t> ids) {
  for (const std::uint16_t id : ids) {
    if (!mem::try_store(&entry(chains_[id].first)->inflight, std::uint8_t{0}))
      return fail_record_access();
  }
  old_used_ = used_;
  return store({.free_head = free_head_, .old_free_head = free_head_}, used_, used_);
}

}  // namespace guestio::vhost
