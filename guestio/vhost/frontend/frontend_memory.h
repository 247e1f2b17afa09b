// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#include "guestio/base/error.h"
#include "guestio/base/mapping.h"
#include "guestio/base/unique_fd.h"
#include "guestio/base/units.h"
#include "guestio/vhost/frontend/frontend.h"

/// Memory shared with a backend, in place of a guest's.
namespace guestio::vhost {

/// A range of shared memory under both of its addresses.
struct SharedRange {
  std::byte* host = nullptr;
  Gpa gpa;
  std::size_t size = 0;

  /// Requires: offset + length <= size.
  [[nodiscard]] SharedRange part(std::size_t offset, std::size_t length) const noexcept {
    return {host + offset, gpa.plus_unchecked(offset), length};
  }
};

/// One region of shared memory (a memfd), allocated from its start and never freed.
///
/// Lifetime: outlives its ranges. Threads: allocate() one at a time.
class FrontendMemory {
 public:
  /// Zero-filled. `start` is the region's guest physical address. Errors: host.
  /// Requires: start is a multiple of kPageSize, size > 0.
  static Result<FrontendMemory> create(std::size_t size, Gpa start = Gpa(0x1'0000'0000));

  /// Errors: too large. Requires: alignment is a power of two of at most a page.
  Result<SharedRange> allocate(std::size_t size, std::size_t alignment);

  /// Faults all pages in, as a guest with preallocated memory does. Errors: host.
  Result<> preallocate() noexcept;

  /// For Frontend::set_mem_table().
  [[nodiscard]] Frontend::Region region() const noexcept;
  /// The address of a range in ring messages.
  [[nodiscard]] static FrontendAddress frontend_address(const SharedRange& range) noexcept;

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
