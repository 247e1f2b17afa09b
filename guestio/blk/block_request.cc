// SPDX-License-Identifier: MIT
#include "guestio/blk/block_request.h"

namespace guestio::blk {

namespace vblk = virtio::blk;
using buf::MemoryAccess;
using buf::RequestBuffers;

namespace {

std::uint32_t allowed_flags(vblk::RequestType type) noexcept {
  return type == vblk::RequestType::kWriteZeroes ? vblk::kRangeUnmap : 0;
}

/// The layout that most drivers use: header and status in extents of their own. Nothing is cut.
bool is_usual(std::span<const mem::AddressRange> readable,
              std::span<const mem::AddressRange> writable) noexcept {
  return !readable.empty() && readable.front().length() == sizeof(vblk::RequestHeader) &&
         !writable.empty() && writable.back().length() == 1;
}

Result<> set_buffers(RequestBuffers& buffers, const virtio::PoppedChain& taken,
                     std::span<const mem::AddressRange> extents, MemoryAccess access) {
  if (extents.size() <= 1) {
    buffers = extents.empty() ? RequestBuffers()
                              : RequestBuffers(taken.memory(), extents.front(), access);
    return {};
  }
  const auto list = RequestBuffers::from_extents(taken.memory(), extents, access);
  if (!list) return fail(list.error());
  buffers = *list;
  return {};
}

Result<> parse_usual(const virtio::PoppedChain& taken, ParsedRequest& request) {
  const auto readable = taken.chain.readable();
  const auto writable = taken.chain.writable();
  request.status = writable.back().start();
  if (auto set = set_buffers(request.writable_data, taken, writable.first(writable.size() - 1),
                             MemoryAccess::kWritable);
      !set) {
    return set;
  }
  if (auto set =
          set_buffers(request.readable_data, taken, readable.subspan(1), MemoryAccess::kReadOnly);
      !set) {
    return set;
  }
  return taken.memory().read(readable.front().start(),
                             std::as_writable_bytes(std::span(&request.header, 1)));
}

}  // namespace

void prefetch_header(const virtio::PoppedChain& taken) noexcept {
  const auto readable = taken.chain.readable();
  if (readable.empty()) return;
  // For writing: most drivers have the status in the same cache line.
  taken.memory().prefetch_for_write(readable.front().start());
}

Result<> parse_request(const virtio::PoppedChain& taken, ParsedRequest& request) {
  if (is_usual(taken.chain.readable(), taken.chain.writable())) return parse_usual(taken, request);
  // Before anything can fail.
  if (!taken.chain.writable().empty()) request.status = taken.chain.writable().back().last();
  const auto all_readable =
      RequestBuffers::from_extents(taken.memory(), taken.chain.readable(), MemoryAccess::kReadOnly);
  const auto all_writable =
      RequestBuffers::from_extents(taken.memory(), taken.chain.writable(), MemoryAccess::kWritable);
  if (!all_readable) return fail(all_readable.error());
  if (!all_writable) return fail(all_writable.error());
  const RequestBuffers& readable = *all_readable;
  const RequestBuffers& writable = *all_writable;
  if (writable.is_empty()) return fail(Error::peer_fault("a request has room for its status"));
  request.writable_data = writable.subrange(0, writable.size() - 1);
  if (readable.size() < sizeof request.header) {
    return fail(Error::peer_fault("a request has a header of 16 bytes", readable.size()));
  }
  request.readable_data =
      readable.subrange(sizeof request.header, readable.size() - sizeof request.header);
  return readable.reader().read(std::as_writable_bytes(std::span(&request.header, 1)));
}

Result<ParsedRanges> parse_ranges(const ParsedRequest& request, std::size_t max_ranges) {
  ParsedRanges ranges;
  const std::size_t bytes = request.readable_data.size();
  if (bytes == 0 || bytes % sizeof(vblk::RangeSegment) != 0) {
    return fail(Error::peer_fault("ranges come in whole", bytes));
  }
  ranges.count = bytes / sizeof(vblk::RangeSegment);
  // The status that QEMU has for it, whose own tests ask for it.
  if (ranges.count > max_ranges) {
    return fail(ErrorKind::kUnsupported, "so many ranges in a request", ranges.count, max_ranges);
  }
  const auto to = std::as_writable_bytes(std::span(ranges.storage)).first(bytes);
  if (auto copied = request.readable_data.reader().read(to); !copied) return fail(copied.error());
  for (const auto& range : ranges.all()) {
    if ((range.flags & ~allowed_flags(request.header.type)) != 0) {
      return fail(ErrorKind::kUnsupported, "flags of a range", range.flags);
    }
  }
  return ranges;
}

vblk::Status to_status(const Error& error) noexcept {
  return error.kind == ErrorKind::kUnsupported ? vblk::Status::kUnsupported
                                               : vblk::Status::kIoError;
}

}  // namespace guestio::blk
