// SPDX-License-Identifier: MIT
#include "guestio/vhost/inflight/split_inflight.h"

#include <algorithm>

#include "guestio/mem/recover.h"

namespace guestio::vhost {

namespace {

constexpr std::size_t kLastBatchHeadAt = 12;
constexpr std::size_t kUsedIdxAt = 14;

}  // namespace

// A region is aligned to 64 bytes, and consists of integers: any bytes are valid.
InflightHeader* SplitInflight::header() const noexcept {
  return reinterpret_cast<InflightHeader*>(region_);
}
std::uint16_t* SplitInflight::last_batch_head() const noexcept {
  return reinterpret_cast<std::uint16_t*>(region_ + kLastBatchHeadAt);
}
std::uint16_t* SplitInflight::used_idx() const noexcept {
  return reinterpret_cast<std::uint16_t*>(region_ + kUsedIdxAt);
}
SplitInflight::Entry* SplitInflight::entry(std::uint16_t head) const noexcept {
  return reinterpret_cast<Entry*>(region_ + sizeof(Region)) + head;
}

Result<SplitInflight> SplitInflight::open(std::byte* region, std::uint16_t size,
                                          std::uint16_t used_index, Recovered& recovered) {
  recovered = {};
  SplitInflight record(region, size);
  std::uint16_t version = 0;
  std::uint16_t desc_num = 0;
  if (!mem::try_load(&record.header()->version, version) ||
      !mem::try_load(&record.header()->desc_num, desc_num)) {
    return fail_record_access();
  }
  Result<> done;
  if (version == 0) {
    recovered.is_fresh = true;
    done = record.format(used_index);
  } else if (version != kInflightVersion || desc_num != size) {
    done = fail(Error::peer_fault("in-flight record of a ring of another size", desc_num));
  } else {
    done = record.finish_last_batch(used_index);
    if (done) done = record.collect(recovered.heads);
  }
  if (!done) return fail(done.error());
  return record;
}

Result<> SplitInflight::format(std::uint16_t used_index) {
  for (std::uint16_t i = 0; i < size_; ++i) {
    if (!mem::try_store(&entry(i)->inflight, std::uint8_t{0})) return fail_record_access();
  }
  // The version last: without it nothing else counts.
  if (!mem::try_store(&header()->desc_num, size_) ||
      !mem::try_store(last_batch_head(), std::uint16_t{0}) ||
      !mem::try_store(used_idx(), used_index) ||
      !mem::try_store(&header()->version, kInflightVersion)) {
    return fail_record_access();
  }
  return {};
}

/// Clears the marks of a batch that was published, but perhaps not yet cleared.
Result<> SplitInflight::finish_last_batch(std::uint16_t used_index) {
  std::uint16_t recorded = 0;
  std::uint16_t head = 0;
  if (!mem::try_load(used_idx(), recorded) || !mem::try_load(last_batch_head(), head)) {
    return fail_record_access();
  }
  const auto batch = static_cast<std::uint16_t>(used_index - recorded);
  if (batch > size_)
    return fail(Error::peer_fault("last batch on record larger than the ring", batch));
  std::vector<bool> seen(size_);
  for (std::uint16_t i = 0; i < batch; ++i) {
    if (head >= size_ || seen[head]) {
      return fail(Error::peer_fault("invalid list of the last batch on record", head));
    }
    seen[head] = true;
    if (!mem::try_store(&entry(head)->inflight, std::uint8_t{0}) ||
        !mem::try_load(&entry(head)->next, head)) {
      return fail_record_access();
    }
  }
  if (!mem::try_store(used_idx(), used_index)) return fail_record_access();
  return {};
}

Result<> SplitInflight::collect(std::vector<std::uint16_t>& in_flight) {
  struct Marked {
    std::uint64_t counter;
    std::uint16_t head;
  };
  std::vector<Marked> marked;
  for (std::uint16_t i = 0; i < size_; ++i) {
    std::uint8_t inflight = 0;
    Marked one{.counter = 0, .head = i};
    if (!mem::try_load(&entry(i)->inflight, inflight) ||
        !mem::try_load(&entry(i)->counter, one.counter)) {
      return fail_record_access();
    }
    if (inflight != 0) marked.push_back(one);
  }
  std::ranges::sort(marked, {}, &Marked::counter);
  for (const Marked& one : marked) in_flight.push_back(one.head);
  if (!marked.empty()) counter_ = marked.back().counter + 1;
  return {};
}

Result<> SplitInflight::note_popped(std::uint16_t head) {
  Entry* const popped = entry(head);
  if (!mem::try_store(&popped->counter, counter_) ||
      !mem::try_store(&popped->inflight, std::uint8_t{1})) {
    return fail_record_access();
  }
  ++counter_;
  return {};
}

Result<> SplitInflight::begin_publish(std::span<const std::uint16_t> heads) {
  for (const std::uint16_t head : heads) {
    if (!mem::try_store(&entry(head)->next, last_in_batch_) ||
        !mem::try_store(last_batch_head(), head)) {
      return fail_record_access();
    }
    last_in_batch_ = head;
  }
  return {};
}

Result<> SplitInflight::end_publish(std::span<const std::uint16_t> heads,
                                    std::uint16_t used_index) {
  for (const std::uint16_t head : heads) {
    if (!mem::try_store(&entry(head)->inflight, std::uint8_t{0})) return fail_record_access();
  }
  if (!mem::try_store(used_idx(), used_index)) return fail_record_access();
  return {};
}

}  // namespace guestio::vhost
