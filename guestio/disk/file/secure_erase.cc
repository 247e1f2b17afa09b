// SPDX-License-Identifier: MIT
#include "guestio/disk/file/secure_erase.h"

#include <linux/fs.h>
#include <sys/ioctl.h>

#include <array>
#include <cerrno>

#include "guestio/uring/blocking_call.h"

namespace guestio::disk {

bool can_secure_erase(int fd) noexcept {
  // A range that begins inside a sector is refused by devices that can erase, and only by those:
  // the others refuse whatever comes.
  return SecureErase::ask_kernel(fd, 1, Sector::kSize) == -EINVAL;
}

std::int32_t SecureErase::ask_kernel(int fd, std::uint64_t offset, std::uint64_t length) noexcept {
  std::array<std::uint64_t, 2> range = {offset, length};
  return ::ioctl(fd, BLKSECDISCARD, range.data()) == 0 ? 0 : -errno;
}

task::Task<Result<>> SecureErase::erase(FileOffset offset, std::uint64_t length) {
  while (is_erasing_) (void)co_await waiting_.wait();
  is_erasing_ = true;
  uring::BlockingCall erasing(loop_,
                              [this, offset, length] { return call_(fd_, offset.raw(), length); });
  const std::int32_t result = co_await erasing;
  is_erasing_ = false;
  waiting_.wake_one();
  if (result == -EOPNOTSUPP) co_return fail(ErrorKind::kUnsupported, "secure erase of the image");
  if (result < 0) co_return fail(Error::host(-result, "secure erase of the image"));
  co_return Result<>();
}

}  // namespace guestio::disk
