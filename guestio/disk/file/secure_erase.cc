// SPDX-License-Identifier: MIT
#include "guestio/disk/file/secure_erase.h"

#include <linux/fs.h>
#include <sys/ioctl.h>

#include <array>
#include <cerrno>

#include "guestio/disk/file/errno_class.h"
#include "guestio/uring/awaitables.h"
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

task::Task<std::int32_t> SecureErase::erase_by_thread(FileOffset offset, std::uint64_t length) {
  uring::BlockingCall erasing(loop_,
                              [this, offset, length] { return call_(fd_, offset.raw(), length); });
  const std::int32_t result = co_await erasing;
  co_return result;
}

task::Task<Result<>> SecureErase::erase(FileOffset offset, std::uint64_t length) {
  while (is_erasing_) (void)co_await waiting_.wait();
  is_erasing_ = true;
  ShortageRetry retry(shortages_);
  auto first = erase_by_thread(offset, length);
  std::int32_t result = co_await std::move(first);
  while (is_shortage(result) && retry.note()) {
    (void)co_await uring::sleep(loop_, retry.pause());
    if (retry.is_call()) {
      result = call_(fd_, offset.raw(), length);
      continue;
    }
    auto again = erase_by_thread(offset, length);
    result = co_await std::move(again);
  }
  is_erasing_ = false;
  waiting_.wake_one();
  if (result == -EOPNOTSUPP) co_return fail(ErrorKind::kUnsupported, "secure erase of the image");
  if (result < 0) co_return fail(Error::host(-result, "secure erase of the image"));
  co_return Result<>();
}

}  // namespace guestio::disk
