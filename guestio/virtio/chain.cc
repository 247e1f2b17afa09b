// SPDX-License-Identifier: MIT
#include "guestio/virtio/chain.h"

#include <algorithm>

namespace guestio::virtio {

namespace {

// 2.7.5.2: a chain describes at most 2^32 bytes.
constexpr std::uint64_t kMaxChainBytes = std::uint64_t{1} << 32;

}  // namespace

void Chain::clear() noexcept {
  drop_extents();
  head_ = 0;
  malformed_ = false;
}

void Chain::begin(std::uint16_t head, ExtentArena& arena) noexcept {
  clear();
  head_ = head;
  arena_ = &arena;
}

Chain::Append Chain::append(Gpa start, std::uint32_t length, Direction direction) noexcept {
  if (length == 0) return Append::kDone;
  const bool writable = direction == Direction::kWritable;
  if (!writable && count_ > readable_count_) {
    mark_malformed(Error::peer_fault("readable descriptor behind a writable one", count_));
    return Append::kMalformed;
  }
  const auto range = mem::AddressRange::from_start_and_length(start, length);
  if (!range) {
    mark_malformed(Error::peer_fault("descriptor that wraps around the addresses", start.raw()));
    return Append::kMalformed;
  }
  if (readable_length_ + writable_length_ + length > kMaxChainBytes) {
    mark_malformed(Error::peer_fault("descriptor chain of more than 4 GiB", head_));
    return Append::kMalformed;
  }
  if (count_ == capacity() && !grow()) return Append::kNoRoom;
  (block_.empty() ? inline_.data() : block_.data())[count_] = *range;
  ++count_;
  if (!writable) readable_count_ = count_;
  (writable ? writable_length_ : readable_length_) += length;
  return Append::kDone;
}

void Chain::mark_malformed(const Error& fault) noexcept {
  drop_extents();
  malformed_ = true;
  fault_ = fault;
}

bool Chain::grow() noexcept {
  const ExtentArena::Block larger = arena_->acquire(count_ + 1);
  if (larger.empty()) return false;
  std::ranges::copy(extents(), larger.begin());
  if (!block_.empty()) arena_->release(block_);
  block_ = larger;
  return true;
}

void Chain::drop_extents() noexcept {
  if (!block_.empty()) arena_->release(block_);
  block_ = {};
  count_ = readable_count_ = 0;
  readable_length_ = writable_length_ = 0;
}

}  // namespace guestio::virtio
