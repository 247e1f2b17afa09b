// SPDX-License-Identifier: MIT
#include "guestio/virtio/chain.h"

#include <algorithm>

namespace guestio::virtio {

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

/// The slow path of append(): finds the fault, or grows the chain.
Chain::Append Chain::make_room(Gpa start, std::uint32_t length, Direction direction) noexcept {
  if (direction == Direction::kReadable && count_ > readable_count_) {
    mark_malformed(Error::peer_fault("readable descriptor after a writable one", count_));
    return Append::kMalformed;
  }
  if (!mem::AddressRange::from_start_and_length(start, length)) {
    mark_malformed(Error::peer_fault("descriptor wraps around the address space", start.raw()));
    return Append::kMalformed;
  }
  if (readable_length_ + writable_length_ + length > kMaxBytes) {
    mark_malformed(Error::peer_fault("descriptor chain over 4 GiB", head_));
    return Append::kMalformed;
  }
  return count_ < capacity() || grow() ? Append::kDone : Append::kNoRoom;
}

void Chain::mark_malformed(const Error& fault) noexcept {
  last_writable_.reset();
  if (!writable().empty()) last_writable_ = writable().back().last();
  drop_extents();
  malformed_ = true;
  fault_ = fault;
}

void Chain::append_malformed(Gpa start, std::uint32_t length, Direction direction) noexcept {
  if (length == 0 || direction == Direction::kReadable) return;
  const auto range = mem::AddressRange::from_start_and_length(start, length);
  last_writable_.reset();
  if (range) last_writable_ = range->last();
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
