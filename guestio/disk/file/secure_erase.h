// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "guestio/base/error.h"
#include "guestio/base/units.h"
#include "guestio/disk/file/shortage.h"
#include "guestio/task/task.h"
#include "guestio/task/wait_queue.h"
#include "guestio/uring/loop.h"

namespace guestio::disk {

/// Whether a block device that is open for writing can erase so that nothing is left to be read, by
/// asking for what no device does. Changes nothing.
[[nodiscard]] bool can_secure_erase(int fd) noexcept;

/// Secure erases of one channel (BLKSECDISCARD). Each blocks for as long as the device takes, so it
/// runs on a thread of its own; one at a time, however many a guest asks for.
///
/// Threads: the loop's. Lifetime: outlives what it has begun.
class SecureErase {
 public:
  /// What the kernel is asked: 0 or -errno. Another one is for tests.
  using Call = std::int32_t (*)(int fd, std::uint64_t offset, std::uint64_t length) noexcept;
  static std::int32_t ask_kernel(int fd, std::uint64_t offset, std::uint64_t length) noexcept;

  SecureErase(uring::Loop& loop, int fd, Shortages& shortages, Call call = &ask_kernel) noexcept
      : loop_(loop), fd_(fd), shortages_(shortages), call_(call) {}

  /// Where there is no thread to be had, again after a pause, then on the loop's. Errors:
  /// unsupported, host.
  task::Task<Result<>> erase(FileOffset offset, std::uint64_t length);

 private:
  task::Task<std::int32_t> erase_by_thread(FileOffset offset, std::uint64_t length);

  uring::Loop& loop_;
  const int fd_;
  Shortages& shortages_;
  const Call call_;
  bool is_erasing_ = false;
  task::WaitQueue waiting_;
};

}  // namespace guestio::disk
