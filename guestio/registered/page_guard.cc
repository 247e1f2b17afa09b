// SPDX-License-Identifier: MIT
#include "guestio/registered/page_guard.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>

#include "guestio/base/align.h"
#include "guestio/base/check.h"
#include "guestio/mem/recover.h"

namespace guestio::registered {

namespace {

/// Only for faults of our own code, which needs no privileges.
UniqueFd open_faults() noexcept {
  return UniqueFd(
      static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY)));
}

/// What a file loses at once. Files on hugetlbfs have large pages only; those of shared memory may
/// have large ones and lose a part of one all the same.
std::size_t page_size_of(int fd) noexcept {
  struct statfs system{};
  if (::fstatfs(fd, &system) != 0 || system.f_type != HUGETLBFS_MAGIC) return kPageSize;
  const auto size = static_cast<std::size_t>(system.f_bsize);
  return std::has_single_bit(size) ? std::max<std::size_t>(size, kPageSize) : kPageSize;
}

}  // namespace

Result<PageGuard> PageGuard::create(int fd, FileOffset offset, ByteCount size) {
  UniqueFd faults = open_faults();
  if (!faults) return fail_host("watch the pages of memory (userfaultfd)");
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_MINOR_HUGETLBFS;
  if (::ioctl(faults.get(), UFFDIO_API, &api) != 0) {
    return fail(ErrorKind::kUnsupported, "watching the pages of memory");
  }
  auto pages = Mapping::shared_file(fd, offset, size.raw(), Mapping::Access::kRead);
  if (!pages) return fail(pages.error());
  return PageGuard(std::move(*pages), page_size_of(fd), std::move(faults));
}

Result<> PageGuard::cover(std::size_t at, std::size_t size) {
  GUESTIO_CHECK(at <= pages_.size() && size <= pages_.size() - at, "a part of what is watched");
  std::byte* const start = pages_.data() + at;
  // Before the watch begins: behind it nothing comes in any more.
  if (::madvise(start, size, MADV_POPULATE_READ) != 0) {
    return fail_host("bring the pages of memory in");
  }
  uffdio_register request{};
  request.range = {reinterpret_cast<std::uintptr_t>(start), size};
  request.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR;
  if (::ioctl(faults_.get(), UFFDIO_REGISTER, &request) == 0) return {};
  if (errno == EINVAL || errno == EPERM) {
    return fail(ErrorKind::kUnsupported, "watching the pages of this memory");
  }
  return fail_host("watch the pages of memory");
}

bool PageGuard::holds(std::size_t at, std::size_t size) const noexcept {
  const std::byte* const start = pages_.data() + at;
  if (!mem::probe_read(start)) return false;
  const std::byte* const end = start + size;
  for (std::size_t next = align_down(at, page_size_) + page_size_; pages_.data() + next < end;
       next += page_size_) {
    if (!mem::probe_read(pages_.data() + next)) return false;
  }
  return true;
}

void PageGuard::prefetch(std::size_t at, std::size_t size) const noexcept {
  // What a processor fetches at a time; of many pages the later ones have time enough.
  constexpr std::size_t kPages = 8;
  __builtin_prefetch(pages_.data() + at);
  const std::size_t second = align_down(at, page_size_) + page_size_;
  for (std::size_t i = 0, next = second; i + 1 < kPages && next < at + size;
       ++i, next += page_size_) {
    __builtin_prefetch(pages_.data() + next);
  }
}

}  // namespace guestio::registered
