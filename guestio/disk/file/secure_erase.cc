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

std::int32_t SecureErase::call_kernel(int fd, std::uint64_t offset, std::uint64_t length) noexcept {
  std::array<std::uint64_t, 2> range = {offset, length};
  return ::ioctl(fd, BLKSECDISCARD, range.data()) == 0 ? 0 : -errno;
}

task::Task<std::int32_t> SecureErase::erase_on_thread(FileOffset offset, std::uint64_t length) {
  uring::BlockingCall erasing(loop_,
                              [this, offset, length] { return call_(fd_, offset.raw(), length); });
  const std::int32_t result = co_await erasing;
  co_return result;
}

task::Task<Result<>> SecureErase::erase(FileOffset offset, std::uint64_t length) {
  while (is_erasing_) (void)co_await waiting_.wait();
  is_erasing_ = true;
  ShortageRetry retry(shortages_);
  std::int32_t result = co_await erase_on_thread(offset, length);
  while (is_shortage(result) && retry.count_shortage()) {
    (void)co_await uring::sleep(loop_, retry.pause());
    if (retry.is_call()) {
      result = call_(fd_, offset.raw(), length);
      continue;
    }
    result = co_await erase_on_thread(offset, length);
  }
  is_erasing_ = false;
  waiting_.wake_one();
  if (result == -EOPNOTSUPP) co_return fail(ErrorKind::kUnsupported, "secure erase of the image");
  if (result < 0) co_return fail(Error::host(-result, "secure erase of the image"));
  co_return Result<>();
}

}  // namespace guestio::disk
