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

/// For faults in user mode only: needs no privileges.
UniqueFd open_userfaultfd() noexcept {
  return UniqueFd(
      static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY)));
}

/// The unit in which a file loses pages. Files on hugetlbfs have huge pages only; shared memory may
/// lose a part of a huge page.
std::size_t page_size_of(int fd) noexcept {
  struct statfs system{};
  if (::fstatfs(fd, &system) != 0 || system.f_type != HUGETLBFS_MAGIC) return kPageSize;
  const auto size = static_cast<std::size_t>(system.f_bsize);
  return std::has_single_bit(size) ? std::max<std::size_t>(size, kPageSize) : kPageSize;
}

}  // namespace

Result<PageGuard> PageGuard::create(int fd, FileOffset offset, ByteCount size) {
  UniqueFd userfaultfd = open_userfaultfd();
  if (!userfaultfd) return fail_host("guard guest memory (userfaultfd)");
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_MINOR_HUGETLBFS;
  if (::ioctl(userfaultfd.get(), UFFDIO_API, &api) != 0) {
    return fail(ErrorKind::kUnsupported, "page guard (userfaultfd features)");
  }
  auto pages = Mapping::shared_file(fd, offset, size.raw(), Mapping::Access::kRead);
  if (!pages) return fail(pages.error());
  return PageGuard(std::move(*pages), page_size_of(fd), std::move(userfaultfd));
}

Result<> PageGuard::cover(std::size_t at, std::size_t size) {
  GUESTIO_CHECK(at <= pages_.size() && size <= pages_.size() - at, "a range inside the guard");
  std::byte* const start = pages_.data() + at;
  // Before the registration: after it no page comes in.
  if (::madvise(start, size, MADV_POPULATE_READ) != 0) {
    return fail_host("fault guest memory in");
  }
  uffdio_register request{};
  request.range = {reinterpret_cast<std::uintptr_t>(start), size};
  request.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR;
  if (::ioctl(userfaultfd_.get(), UFFDIO_REGISTER, &request) == 0) return {};
  if (errno == EINVAL || errno == EPERM) {
    return fail(ErrorKind::kUnsupported, "page guard on this kind of memory");
  }
  return fail_host("guard guest memory");
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
  // As many as a processor fetches at a time; later pages have time enough.
  constexpr std::size_t kPages = 8;
  __builtin_prefetch(pages_.data() + at);
  const std::size_t second = align_down(at, page_size_) + page_size_;
  for (std::size_t i = 0, next = second; i + 1 < kPages && next < at + size;
       ++i, next += page_size_) {
    __builtin_prefetch(pages_.data() + next);
  }
}

}  // namespace guestio::registered
