// SPDX-License-Identifier: MIT
#include "guestio/buf/owned_request_buffers.h"

#include <utility>

namespace guestio::buf {

namespace {

std::uint64_t pages_of(const mem::AddressRange& range) noexcept {
  if (range.is_empty()) return 0;
  return (range.last().raw() >> kPageShift) - (range.start().raw() >> kPageShift) + 1;
}

}  // namespace

OwnedRequestBuffers OwnedRequestBuffers::from_whole_pages(std::span<const Gpn> gpns,
                                                          MemoryAccess access) {
  return {Pages{{gpns.begin(), gpns.end()}, 0}, gpns.size() * std::uint64_t{kPageSize}, access};
}

Result<OwnedRequestBuffers> OwnedRequestBuffers::from_pages(std::span<const Gpn> gpns,
                                                            std::uint64_t offset,
                                                            std::uint64_t length,
                                                            MemoryAccess access) {
  const auto range = mem::PagedRange::from_pages(offset, length, gpns);
  if (!range) return fail(range.error());
  const std::span<const Gpn> touched = range->gpns();
  return OwnedRequestBuffers(Pages{{touched.begin(), touched.end()}, range->offset()}, length,
                             access);
}

Result<OwnedRequestBuffers> OwnedRequestBuffers::linear(Gpa address, std::uint64_t length,
                                                        MemoryAccess access) noexcept {
  if (length > kMaxBytes) {
    return fail(ErrorKind::kTooLarge, "buffers of a request", length, kMaxBytes);
  }
  const auto range = mem::AddressRange::from_start_and_length(address, length);
  if (!range) return fail(range.error());
  return OwnedRequestBuffers(*range, length, access);
}

Result<OwnedRequestBuffers> OwnedRequestBuffers::from_extents(
    std::span<const mem::AddressRange> extents, MemoryAccess access) {
  const auto range = mem::AddressRanges::from_ranges(extents);
  if (!range) return fail(range.error());
  return OwnedRequestBuffers(Extents(extents.begin(), extents.end()), range->length(), access);
}

mem::AnyRange OwnedRequestBuffers::range() const noexcept {
  // Checked at construction: cannot fail here.
  if (const auto* pages = std::get_if<Pages>(&list_)) {
    return *mem::PagedRange::from_pages(pages->offset, size_, pages->gpns);
  }
  if (const auto* extents = std::get_if<Extents>(&list_)) {
    return *mem::AddressRanges::from_ranges(*extents);
  }
  return *std::get_if<mem::AddressRange>(&list_);
}

std::uint64_t OwnedRequestBuffers::pages() const noexcept {
  if (const auto* pages = std::get_if<Pages>(&list_)) return pages->gpns.size();
  if (const auto* extents = std::get_if<Extents>(&list_)) {
    std::uint64_t count = 0;
    for (const mem::AddressRange& extent : *extents) count += pages_of(extent);
    return count;
  }
  return pages_of(*std::get_if<mem::AddressRange>(&list_));
}

RequestBuffers OwnedRequestBuffers::buffers(const mem::GuestMemory& memory) const noexcept {
  return {memory, range(), access_};
}

}  // namespace guestio::buf
