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

/// The parts of a block request, found in a chain of any layout (virtio 1.2, section 5.2.6):
///
///   readable   | header: 16 bytes | data the driver gives ...        |
///   writable   | data the driver wants ...            | status: 1 byte |
///
/// The header is copied out of guest memory once; nothing else is.
struct ParsedRequest {
  virtio::blk::RequestHeader header{};
  buf::RequestBuffers readable_data;  ///< readable bytes behind the header
  buf::RequestBuffers writable_data;  ///< writable bytes before the status
  std::optional<Gpa> status;          ///< the last writable byte, if there is one
};

/// Always gives `status`, so that a failed request can be answered. Errors: peer fault (no room for
/// header or status), memory fault, out of range.
Result<> parse_request(const virtio::PoppedChain& taken, ParsedRequest& request);

/// Has the processor fetch the header, which the driver's has just written, ahead of
/// parse_request().
void prefetch_header(const virtio::PoppedChain& taken) noexcept;

/// The ranges of a discard or write-zeroes request, copied out of guest memory and checked
/// (5.2.6.2).
struct ParsedRanges {
  std::array<virtio::blk::RangeSegment, BlockDevice::kMaxRanges> storage;
  std::size_t count = 0;
  [[nodiscard]] std::span<const virtio::blk::RangeSegment> all() const noexcept {
    return std::span(storage).first(count);
  }
};

/// Errors: peer fault (no whole number of ranges), unsupported (more than were offered, flags),
/// memory fault. Requires: max_ranges <= BlockDevice::kMaxRanges.
Result<ParsedRanges> parse_ranges(const ParsedRequest& request, std::size_t max_ranges);

/// The one place where an error becomes a status byte.
[[nodiscard]] virtio::blk::Status to_status(const Error& error) noexcept;

}  // namespace guestio::blk
