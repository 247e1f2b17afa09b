// SPDX-License-Identifier: MIT
#include "guestio/disk/file/image_lock.h"

#include <fcntl.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <span>
#include <thread>

#include "guestio/base/log.h"

namespace guestio::disk {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kMaxWait(1000);  // for a killed process
constexpr std::chrono::microseconds kPollInterval(500);

// Permission bytes of an image, in the layout of QEMU's file driver.
constexpr off_t kUsedBase = 100;
constexpr off_t kUnsharedBase = 200;
constexpr off_t kConsistentRead = 0;
constexpr off_t kWrite = 1;
constexpr off_t kResize = 3;

struct flock make_lock(short type, off_t byte) noexcept {
  struct flock lock{};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = byte;
  lock.l_len = 1;
  return lock;
}

bool has_no_lock_support(int error_number) noexcept {
  return error_number == EINVAL || error_number == ENOLCK || error_number == EOPNOTSUPP ||
         error_number == ENOSYS;
}

Result<> hold(int fd, off_t byte) {
  struct flock lock = make_lock(F_RDLCK, byte);
  if (::fcntl(fd, F_OFD_SETLK, &lock) == 0) return {};
  if (errno == EAGAIN || errno == EACCES) return fail(ErrorKind::kBusy, "lock the image");
  return fail_host("lock the image");
}

/// Whether no other open file description holds `byte`.
Result<> check_free(int fd, off_t byte) {
  struct flock lock = make_lock(F_WRLCK, byte);
  if (::fcntl(fd, F_OFD_GETLK, &lock) != 0) return fail_host("query the image's locks");
  if (lock.l_type != F_UNLCK) return fail(ErrorKind::kBusy, "image in use by another process");
  return {};
}

Result<> claim(int fd, ImageAccess access) {
  static constexpr std::array kReader = {kConsistentRead};
  static constexpr std::array kWriter = {kConsistentRead, kWrite};
  static constexpr std::array kDenied = {kWrite, kResize};
  const std::span<const off_t> used =
      access == ImageAccess::kReadWrite ? std::span<const off_t>(kWriter) : kReader;
  for (const off_t permission : used) {
    if (auto held = hold(fd, kUsedBase + permission); !held) return held;
  }
  for (const off_t permission : kDenied) {
    if (auto held = hold(fd, kUnsharedBase + permission); !held) return held;
  }
  for (const off_t permission : used) {
    if (auto free = check_free(fd, kUnsharedBase + permission); !free) return free;
  }
  for (const off_t permission : kDenied) {
    if (auto free = check_free(fd, kUsedBase + permission); !free) return free;
  }
  return {};
}

}  // namespace

Result<> lock_image(int fd, ImageAccess access, std::string_view name) {
  const auto deadline = Clock::now() + kMaxWait;
  auto claimed = claim(fd, access);
  while (!claimed && claimed.error().kind == ErrorKind::kBusy && Clock::now() < deadline) {
    std::this_thread::sleep_for(kPollInterval);
    claimed = claim(fd, access);
  }
  if (!claimed && has_no_lock_support(claimed.error().host_errno)) {
    log::warning(
        "{}: no locks on the image's file system: {}; other processes can write to the image", name,
        claimed.error().to_string());
    return {};
  }
  return claimed;
}

}  // namespace guestio::disk
