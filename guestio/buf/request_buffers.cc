// SPDX-License-Identifier: MIT
#include "guestio/buf/request_buffers.h"

#include <bit>

#include "guestio/base/align.h"
#include "guestio/base/check.h"

namespace guestio::buf {

Result<RequestBuffers> RequestBuffers::from_extents(const mem::GuestMemory& memory,
                                                    std::span<const mem::AddressRange> extents,
                                                    MemoryAccess access) noexcept {
  const auto range = mem::AddressRanges::from_ranges(extents);
  if (!range) return fail(range.error());
  return RequestBuffers(memory, *range, access);
}

const mem::GuestMemory& RequestBuffers::no_memory() noexcept {
  static const mem::GuestMemory none;
  return none;
}

Result<RequestBuffers> RequestBuffers::try_subrange(std::uint64_t offset,
                                                    std::uint64_t size) const noexcept {
  const auto part = range_.try_subrange(offset, size);
  if (!part) return fail(part.error());
  return RequestBuffers(memory_, *part, access_);
}

Result<mem::Split<RequestBuffers>> RequestBuffers::try_split(std::uint64_t at) const noexcept {
  const auto front = try_subrange(0, at);
  if (!front) return fail(front.error());
  return mem::Split<RequestBuffers>{*front, subrange(at, size() - at)};
}

Result<LockedIoBuffers> RequestBuffers::lock(MemoryAccess purpose) const {
  // One object returned on every path, so that the segments are written in place.
  Result<LockedIoBuffers> locked;
  const bool is_for_writing = purpose == MemoryAccess::kWritable;
  if (is_for_writing && access_ == MemoryAccess::kReadOnly && !is_empty()) {
    locked = fail(ErrorKind::kReadOnly, "lock a request's memory for writing");
    return locked;
  }
  const auto access = is_for_writing ? mem::Access::kWrite : mem::Access::kRead;
  if (Result<> done = locked->lock(memory(), range_, access); !done) locked = fail(done.error());
  return locked;
}

bool RequestBuffers::is_aligned(std::uint64_t alignment) const {
  GUESTIO_CHECK(std::has_single_bit(alignment), "an alignment that is a power of two");
  const auto locked = lock(MemoryAccess::kReadOnly);
  if (!locked) return false;
  std::uint64_t bits = 0;
  for (const IoBuffer& segment : locked->segments()) {
    bits |= reinterpret_cast<std::uintptr_t>(segment.data) | segment.length;
  }
  return guestio::is_aligned(bits, alignment);
}

Result<> RequestBuffers::mark_written() const noexcept { return memory().mark_written(range_); }

}  // namespace guestio::buf
