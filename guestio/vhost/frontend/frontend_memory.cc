// SPDX-License-Identifier: MIT
#include "guestio/vhost/frontend/frontend_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include "guestio/base/align.h"
#include "guestio/base/check.h"

namespace guestio::vhost {

Result<FrontendMemory> FrontendMemory::create(std::size_t size, Gpa start) {
  GUESTIO_CHECK(start.is_aligned_to(kPageSize), "a region that is aligned to a page");
  size = align_up(size, kPageSize);
  UniqueFd fd(::memfd_create("guestio-frontend", MFD_CLOEXEC));
  if (!fd) return fail_host("make shared memory");
  if (::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) {
    return fail_host("set the size of shared memory");
  }
  auto mapping = Mapping::shared_file(fd.get(), FileOffset(0), size, Mapping::Access::kReadWrite);
  if (!mapping) return fail(mapping.error());
  return FrontendMemory(std::move(fd), std::move(*mapping), start);
}

Result<> FrontendMemory::preallocate() noexcept {
  if (::madvise(mapping_.data(), mapping_.size(), MADV_POPULATE_WRITE) == 0) return {};
  return fail_host("fault shared memory in");
}

Result<SharedRange> FrontendMemory::allocate(std::size_t size, std::size_t alignment) {
  const std::size_t offset = align_up(used_, alignment);
  if (!fits_within(offset, size, mapping_.size())) {
    return fail(ErrorKind::kTooLarge, "allocate shared memory", size, mapping_.size() - used_);
  }
  used_ = offset + size;
  return whole().part(offset, size);
}

Frontend::Region FrontendMemory::region() const noexcept {
  return {.where = {.guest_address = start_.raw(),
                    .size = mapping_.size(),
                    .user_address = frontend_address(whole()).raw(),
                    .mmap_offset = 0},
          .fd = fd_.get()};
}

FrontendAddress FrontendMemory::frontend_address(const SharedRange& range) noexcept {
  return FrontendAddress(reinterpret_cast<std::uintptr_t>(range.host));
}

}  // namespace guestio::vhost
