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

/// The layout of most drivers: header and status in extents of their own. Nothing is cut.
bool has_usual_layout(std::span<const mem::AddressRange> readable,
                      std::span<const mem::AddressRange> writable) noexcept {
  return !readable.empty() && readable.front().length() == sizeof(vblk::RequestHeader) &&
         !writable.empty() && writable.back().length() == 1;
}

Result<> set_buffers(RequestBuffers& buffers, const virtio::PoppedChain& popped,
                     std::span<const mem::AddressRange> extents, MemoryAccess access) {
  if (extents.size() <= 1) {
    buffers = extents.empty() ? RequestBuffers()
                              : RequestBuffers(popped.memory(), extents.front(), access);
    return {};
  }
  const auto list = RequestBuffers::from_extents(popped.memory(), extents, access);
  if (!list) return fail(list.error());
  buffers = *list;
  return {};
}

Result<> parse_usual_layout(const virtio::PoppedChain& popped, ParsedRequest& request) {
  const auto readable = popped.chain.readable();
  const auto writable = popped.chain.writable();
  request.status = writable.back().start();
  if (auto set = set_buffers(request.writable_data, popped, writable.first(writable.size() - 1),
                             MemoryAccess::kWritable);
      !set) {
    return set;
  }
  if (auto set =
          set_buffers(request.readable_data, popped, readable.subspan(1), MemoryAccess::kReadOnly);
      !set) {
    return set;
  }
  return popped.memory().read(readable.front().start(),
                              std::as_writable_bytes(std::span(&request.header, 1)));
}

}  // namespace

void prefetch_header(const virtio::PoppedChain& popped) noexcept {
  const auto readable = popped.chain.readable();
  if (readable.empty()) return;
  // For writing: most drivers put the status into the same cache line.
  popped.memory().prefetch_for_write(readable.front().start());
}

Result<> parse_request(const virtio::PoppedChain& popped, ParsedRequest& request) {
  if (has_usual_layout(popped.chain.readable(), popped.chain.writable()))
    return parse_usual_layout(popped, request);
  // Before anything can fail.
  if (!popped.chain.writable().empty()) request.status = popped.chain.writable().back().last();
  const auto all_readable = RequestBuffers::from_extents(popped.memory(), popped.chain.readable(),
                                                         MemoryAccess::kReadOnly);
  const auto all_writable = RequestBuffers::from_extents(popped.memory(), popped.chain.writable(),
                                                         MemoryAccess::kWritable);
  if (!all_readable) return fail(all_readable.error());
  if (!all_writable) return fail(all_writable.error());
  const RequestBuffers& readable = *all_readable;
  const RequestBuffers& writable = *all_writable;
  if (writable.is_empty()) return fail(Error::peer_fault("request without a status byte"));
  request.writable_data = writable.subrange(0, writable.size() - 1);
  if (readable.size() < sizeof request.header) {
    return fail(Error::peer_fault("request header shorter than 16 bytes", readable.size()));
  }
  request.readable_data =
      readable.subrange(sizeof request.header, readable.size() - sizeof request.header);
  return readable.reader().read(std::as_writable_bytes(std::span(&request.header, 1)));
}

Result<ParsedRanges> parse_ranges(const ParsedRequest& request, std::size_t max_ranges) {
  ParsedRanges ranges;
  const std::size_t bytes = request.readable_data.size();
  if (bytes == 0 || bytes % sizeof(vblk::RangeSegment) != 0) {
    return fail(Error::peer_fault("no whole number of ranges", bytes));
  }
  ranges.count = bytes / sizeof(vblk::RangeSegment);
  // The status of QEMU, required by its tests.
  if (ranges.count > max_ranges) {
    return fail(ErrorKind::kUnsupported, "number of ranges in a request", ranges.count, max_ranges);
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
