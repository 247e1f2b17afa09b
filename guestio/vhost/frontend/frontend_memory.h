// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#include "guestio/base/error.h"
#include "guestio/base/mapping.h"
#include "guestio/base/unique_fd.h"
#include "guestio/base/units.h"
#include "guestio/vhost/frontend/frontend.h"

/// Memory that a front-end of ours shares with a backend in place of a guest's.
namespace guestio::vhost {

/// A piece of shared memory under its two names.
struct SharedRange {
  std::byte* host = nullptr;
  Gpa gpa;
  std::size_t size = 0;

  /// Requires: offset + length <= size.
  [[nodiscard]] SharedRange part(std::size_t offset, std::size_t length) const noexcept {
    return {host + offset, gpa.plus_unchecked(offset), length};
  }
};

/// One region of shared memory (a memfd), handed out from its start and never taken back.
///
/// Lifetime: outlives its pieces. Threads: one at a time for allocate().
class FrontendMemory {
 public:
  /// Zero-filled. `start` is the region's guest physical address. Errors: host.
  /// Requires: start is a multiple of kPageSize, size > 0.
  static Result<FrontendMemory> create(std::size_t size, Gpa start = Gpa(0x1'0000'0000));

  /// Errors: too large. Requires: alignment is a power of two of at most a page.
  Result<SharedRange> allocate(std::size_t size, std::size_t alignment);

  /// Brings all pages in, as a guest's that is started with preallocated memory. Errors: host.
  Result<> preallocate() noexcept;

  /// What Frontend::set_mem_table() wants to know.
  [[nodiscard]] Frontend::Region region() const noexcept;
  /// The address that the backend knows a piece of ours by in ring messages.
  [[nodiscard]] static FrontendAddress frontend_address(const SharedRange& piece) noexcept;

  [[nodiscard]] SharedRange whole() const noexcept {
    return {mapping_.data(), start_, mapping_.size()};
  }
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }

 private:
  FrontendMemory(UniqueFd fd, Mapping mapping, Gpa start) noexcept
      : fd_(std::move(fd)), mapping_(std::move(mapping)), start_(start) {}

  UniqueFd fd_;
  Mapping mapping_;
  Gpa start_;
  std::size_t used_ = 0;
};

}  // namespace guestio::vhost
