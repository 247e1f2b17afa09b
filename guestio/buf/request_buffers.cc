// SPDX-License-Identifier: MIT
#include "guestio/buf/request_buffers.h"

#include "guestio/base/align.h"

namespace guestio::buf {

namespace {

/// More than a driver sends that keeps to what we offer (126 data segments) is rare enough for the
/// heap.
constexpr std::size_t kSegmentsInPlace = 128;

}  // namespace

Result<RequestBuffers> RequestBuffers::from_extents(const mem::GuestMemory& memory,
                                                    std::span<const mem::AddressRange> extents,
                                                    MemoryAccess access) {
  const auto window = mem::AddressRanges::from_pieces(extents);
  if (!window) return fail(window.error());
  return RequestBuffers(memory, *window, access);
}

Result<RequestBuffers> RequestBuffers::try_subrange(std::uint64_t offset, std::uint64_t size) const {
  const auto window = window_.try_subrange(offset, size);
  if (!window) return fail(window.error());
  RequestBuffers part = *this;
  part.window_ = *window;
  return part;
}

RequestBuffers RequestBuffers::subrange(std::uint64_t offset, std::uint64_t size) const {
  RequestBuffers part = *this;
  part.window_ = window_.subrange(offset, size);
  return part;
}

BufferReader RequestBuffers::reader() const noexcept { return BufferReader(*this); }

BufferWriter RequestBuffers::writer() const noexcept { return BufferWriter(*this); }

Result<LockedIoBuffers> RequestBuffers::lock(MemoryAccess purpose) const {
  LockedIoBuffers locked;
  if (purpose == MemoryAccess::kWritable && access_ == MemoryAccess::kReadOnly && !is_empty()) {
    return fail(ErrorKind::kReadOnly, "lock a request's memory for writing");
  }
  if (is_empty()) return locked;
  const auto access =
      purpose == MemoryAccess::kWritable ? mem::Access::kWrite : mem::Access::kRead;
  mem::SegmentArray<kSegmentsInPlace> found;
  auto lock = memory_->lock(window_, access, found);
  if (!lock) return fail(lock.error());
  for (const mem::HostSegment& segment : found) {
    locked.segments_.emplace_back(segment.data, segment.length);
  }
  locked.lock_ = std::move(*lock);
  return locked;
}

Result<bool> RequestBuffers::is_aligned(std::size_t alignment) const {
  const auto locked = lock(MemoryAccess::kReadOnly);
  if (!locked) return fail(locked.error());
  for (const IoBuffer& segment : locked->segments()) {
    const auto address = reinterpret_cast<std::uintptr_t>(segment.data());
    if (!guestio::is_aligned(address | segment.size(), alignment)) return false;
  }
  return true;
}

Result<> BufferReader::read(std::span<std::byte> to) {
  if (to.empty()) return {};
  if (to.size() > rest_.size()) {
    return fail(ErrorKind::kOutOfRange, "read a request's memory", to.size(), rest_.size());
  }
  if (auto read = rest_.memory_->read(rest_.window_, to); !read) return read;
  return skip(to.size());
}

Result<> BufferReader::skip(std::uint64_t bytes) { return rest_.window_.try_skip(bytes); }

Result<> BufferWriter::check(std::uint64_t bytes, const char* what) const {
  if (rest_.access_ == MemoryAccess::kReadOnly) return fail(ErrorKind::kReadOnly, what);
  if (bytes > rest_.size()) return fail(ErrorKind::kOutOfRange, what, bytes, rest_.size());
  return {};
}

Result<> BufferWriter::write(std::span<const std::byte> from) {
  if (from.empty()) return {};
  if (auto checked = check(from.size(), "write a request's memory"); !checked) return checked;
  if (auto written = rest_.memory_->write(rest_.window_, from); !written) return written;
  return skip(from.size());
}

Result<> BufferWriter::fill(std::byte value, std::uint64_t bytes) {
  if (bytes == 0) return {};
  if (auto checked = check(bytes, "fill a request's memory"); !checked) return checked;
  if (auto filled = rest_.memory_->fill(rest_.window_, value, bytes); !filled) return filled;
  return skip(bytes);
}

Result<> BufferWriter::skip(std::uint64_t bytes) { return rest_.window_.try_skip(bytes); }

}  // namespace guestio::buf
