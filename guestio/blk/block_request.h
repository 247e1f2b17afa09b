// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "guestio/base/error.h"
#include "guestio/blk/block_device.h"
#include "guestio/buf/request_buffers.h"
#include "guestio/virtio/blk_layout.h"
#include "guestio/virtio/device.h"

namespace guestio::blk {

/// The parts of a block request in a chain of any layout (virtio 1.2, section 5.2.6):
///
///   readable   | header: 16 bytes | readable data ...                |
///   writable   | writable data ...                    | status: 1 byte |
///
/// The header is a copy, made once; the rest stays in guest memory.
struct ParsedRequest {
  virtio::blk::RequestHeader header{};
  buf::RequestBuffers readable_data;  ///< after the header
  buf::RequestBuffers writable_data;  ///< before the status
  std::optional<Gpa> status;          ///< the last writable byte, if there is one
};

/// Sets `status` even on failure, if the chain has a writable byte. Errors: peer fault (no room for
/// header or status), memory fault, out of range.
Result<> parse_request(const virtio::PoppedChain& popped, ParsedRequest& request);

/// Prefetches the header, just written by the driver's processor, for parse_request().
void prefetch_header(const virtio::PoppedChain& popped) noexcept;

/// The ranges of a discard, write-zeroes or secure-erase request (5.2.6.2): copied from guest
/// memory, then checked.
struct ParsedRanges {
  std::array<virtio::blk::RangeSegment, BlockDevice::kMaxRanges> storage;
  std::size_t count = 0;
  [[nodiscard]] std::span<const virtio::blk::RangeSegment> all() const noexcept {
    return std::span(storage).first(count);
  }
};

/// Errors: peer fault (partial range), unsupported (more than `max_ranges`, flags), memory fault.
/// Requires: max_ranges <= BlockDevice::kMaxRanges.
Result<ParsedRanges> parse_ranges(const ParsedRequest& request, std::size_t max_ranges);

/// The only conversion of an error to a status byte.
[[nodiscard]] virtio::blk::Status to_status(const Error& error) noexcept;

}  // namespace guestio::blk
