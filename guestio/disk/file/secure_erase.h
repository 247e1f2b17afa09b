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

/// Secure erases of one channel (BLKSECDISCARD). Each blocks as long as the device takes, so it
/// runs on a thread of its own, one at a time.
///
/// Threads: the loop's. Lifetime: outlives its operations.
class SecureErase {
 public:
  /// The system call: 0 or -errno. Tests pass another one.
  using Call = std::int32_t (*)(int fd, std::uint64_t offset, std::uint64_t length) noexcept;
  static std::int32_t call_kernel(int fd, std::uint64_t offset, std::uint64_t length) noexcept;

  SecureErase(uring::Loop& loop, int fd, Shortages& shortages, Call call = &call_kernel) noexcept
      : loop_(loop), fd_(fd), shortages_(shortages), call_(call) {}

  /// Without a thread to be had it retries after pauses, and at last calls on the loop's thread.
  /// Errors: unsupported, host.
  task::Task<Result<>> erase(FileOffset offset, std::uint64_t length);

 private:
  task::Task<std::int32_t> erase_on_thread(FileOffset offset, std::uint64_t length);

  uring::Loop& loop_;
  const int fd_;
  Shortages& shortages_;
  const Call call_;
  bool is_erasing_ = false;
  task::WaitQueue waiting_;
};

}  // namespace guestio::disk
