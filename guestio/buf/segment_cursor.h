// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <span>

#include "guestio/base/error.h"
#include "guestio/buf/io_buffer.h"
#include "guestio/mem/recover.h"

namespace guestio::buf {

/// A forward-only position in a list of host segments. The segments may be shared with a guest; a
/// copy recovers from faults. A view. Lifetime: the list outlives it.
class SegmentCursor {
 public:
  explicit SegmentCursor(std::span<const IoBuffer> segments) noexcept : rest_(segments) {
    skip_empty();
  }

  /// The rest of the current segment; empty at the end.
  [[nodiscard]] IoBuffer run() const noexcept {
    if (rest_.empty()) return {};
    return rest_.front().subsegment(offset_, rest_.front().length - offset_);
  }

  /// Advances by `bytes`, at most to the end.
  void advance(std::size_t bytes) noexcept {
    while (!rest_.empty()) {
      const std::size_t here = rest_.front().length - offset_;
      if (bytes < here) {
        offset_ += bytes;
        return;
      }
      bytes -= here;
      rest_ = rest_.subspan(1);
      offset_ = 0;
    }
  }

  /// Copies from here into `to` and advances. Errors: memory fault (the address), out of range past
  /// the last segment; a part of the bytes may then be copied.
  Result<> read(std::span<std::byte> to) noexcept {
    return move(to, [](std::byte* segment, std::byte* other, std::size_t size) {
      return mem::try_copy(other, segment, size);
    });
  }

  /// Copies `from` to here and advances. Errors as read().
  Result<> write(std::span<const std::byte> from) noexcept {
    return move(from, [](std::byte* segment, const std::byte* other, std::size_t size) {
      return mem::try_copy(segment, other, size);
    });
  }

 private:
  template <typename Bytes, typename Copy>
  Result<> move(Bytes bytes, Copy copy) noexcept {
    while (!bytes.empty()) {
      const IoBuffer here = run();
      if (here.is_empty()) return fail(ErrorKind::kOutOfRange, "copy a segment", bytes.size(), 0);
      const std::size_t size = std::min(here.length, bytes.size());
      const std::size_t done = copy(here.data, bytes.data(), size);
      if (done != size) {
        return fail(ErrorKind::kMemoryFault, "copy a segment",
                    reinterpret_cast<std::uintptr_t>(here.data + done));
      }
      advance(size);
      bytes = bytes.subspan(size);
    }
    return {};
  }

  void skip_empty() noexcept {
    while (!rest_.empty() && rest_.front().is_empty()) rest_ = rest_.subspan(1);
  }

  std::span<const IoBuffer> rest_;  // empty segments in front are skipped by advance(0) as well
  std::size_t offset_ = 0;          // into rest_.front()
};

}  // namespace guestio::buf
