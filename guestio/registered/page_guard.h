// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include "guestio/base/error.h"
#include "guestio/base/mapping.h"
#include "guestio/base/unique_fd.h"
#include "guestio/base/units.h"

namespace guestio::registered {

/// Detects that pages of a shared file went away (a hole was punched, the file was truncated), even
/// if new pages have taken their place.
///
///     file:    [ 0 ][ 1 ][ 2'][ 3 ]    page 2 was discarded, and came back as another
///     guard:     |    |    x    |      a mapping of our own, never used for data
///
/// A userfaultfd answers an access to a page that the guard has lost with a fault instead of a new
/// page, so one load tells. No page leaves a file without leaving each mapping of it. The kernel
/// may also drop a page from the mapping for reasons of its own before it is pinned: "lost" means
/// only that nothing is known of the page any more.
///
/// Works for memory files, huge pages included, without privileges. Requires Linux 5.14.
///
/// Threads: cover() one at a time; holds() any, for what was covered before.
class PageGuard {
 public:
  /// A guard over `size` bytes of a file, with nothing covered yet.
  /// Errors: unsupported (the kernel cannot guard pages), host.
  [[nodiscard]] static Result<PageGuard> create(int fd, FileOffset offset, ByteCount size);

  /// Guards [at, at + size) from now on: a later user of the pages gets those that holds() reports
  /// on. Faults absent pages in. Takes 0.1 s/GiB in pages of 4 KiB.
  /// Requires: whole pages, in range, not covered yet.
  /// Errors: unsupported (memory of another kind), host.
  Result<> cover(std::size_t at, std::size_t size);

  /// The granularity of cover().
  [[nodiscard]] std::size_t page_size() const noexcept { return page_size_; }

  /// Whether the pages of [at, at + size) are still those of cover(). One load a page.
  /// Requires: size > 0, and covered.
  [[nodiscard]] bool holds(std::size_t at, std::size_t size) const noexcept;
  /// Prefetches the first cache lines that holds() will load. Accesses nothing.
  void prefetch(std::size_t at, std::size_t size) const noexcept;

 private:
  PageGuard(Mapping pages, std::size_t page_size, UniqueFd userfaultfd) noexcept
      : pages_(std::move(pages)), page_size_(page_size), userfaultfd_(std::move(userfaultfd)) {}

  Mapping pages_;
  std::size_t page_size_;
  UniqueFd userfaultfd_;
};

}  // namespace guestio::registered
