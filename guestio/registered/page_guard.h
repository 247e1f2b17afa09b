// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include "guestio/base/error.h"
#include "guestio/base/mapping.h"
#include "guestio/base/unique_fd.h"
#include "guestio/base/units.h"

namespace guestio::registered {

/// Notices that pages of a shared file have been taken away (a hole was punched, the file was
/// truncated), though new ones may lie there by now.
///
///     file:    [ 0 ][ 1 ][ 2'][ 3 ]    page 2 was discarded, and came back as another
///     watch:     |    |    x    |      a mapping of our own, never used for data
///
/// A userfaultfd answers whoever touches a page that the watch has lost with a fault instead of a
/// new page, so that one load tells. No page can leave a file without leaving each mapping of it.
/// The kernel may drop a page from the watch for reasons of its own as well, before somebody pins
/// it: so "gone" means only that nothing is known of it any more.
///
/// Works for memory files, huge pages included, without privileges; Linux 5.14.
///
/// Threads: cover() one at a time; holds() any, for what was covered before.
class PageGuard {
 public:
  /// A watch over `size` bytes of a file, which covers nothing yet. Errors: unsupported (the kernel
  /// watches no such thing), host.
  [[nodiscard]] static Result<PageGuard> create(int fd, FileOffset offset, ByteCount size);

  /// Watches [at, at + size) from now on: who asks for the pages later than this gets those that
  /// holds() tells of. Missing pages are brought in. Takes some 0.1 s a GiB in pages of 4 KiB.
  /// Requires: whole pages, inside, not covered yet. Errors: unsupported (memory of a kind that
  /// cannot be watched), host.
  Result<> cover(std::size_t at, std::size_t size);

  /// What is covered in pieces of.
  [[nodiscard]] std::size_t page_size() const noexcept { return page_size_; }

  /// Whether the pages that hold [at, at + size) are still those of cover(). One load a page.
  /// Requires: size > 0, and covered.
  [[nodiscard]] bool holds(std::size_t at, std::size_t size) const noexcept;
  /// Has the processor fetch what holds() will load, of the first pages. Touches nothing.
  void prefetch(std::size_t at, std::size_t size) const noexcept;

 private:
  PageGuard(Mapping pages, std::size_t page_size, UniqueFd faults) noexcept
      : pages_(std::move(pages)), page_size_(page_size), faults_(std::move(faults)) {}

  Mapping pages_;
  std::size_t page_size_;
  UniqueFd faults_;
};

}  // namespace guestio::registered
