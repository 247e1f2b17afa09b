// SPDX-License-Identifier: MIT
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <chrono>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <span>

#include "guestio/base/units.h"
#include "guestio/task/stop.h"
#include "guestio/uring/loop.h"

/// Awaitable system calls:
///
///     const std::int32_t result = co_await uring::read(loop, file, buffer, FileOffset(0), token);
///     if (result < 0) co_return fail(Error::host(-result, "read"));
///
/// The result is the return value of the system call, or -errno. A stop of `token` cancels the
/// operation. The coroutine resumes after the kernel has released the buffers, with -ECANCELED or,
/// if the call was faster, its own result. A token stopped beforehand gives -ECANCELED without a
/// call.
///
/// Buffers, addresses and message headers belong to the caller and must live until the coroutine
/// resumes. It resumes on the loop's thread, from within run(), and must not be destroyed before
/// (checked).
namespace guestio::uring {

/// One call in flight. Lives in the awaiting coroutine's frame.
class [[nodiscard]] RingAwaitable : public Operation, private task::StopListener {
 public:
  /// `entry`: the SQE to submit. The functions below make it.
  RingAwaitable(Loop& loop, const io_uring_sqe& entry, task::StopToken token) noexcept
      : loop_(loop), token_(token), entry_(entry) {}

  [[nodiscard]] bool await_ready() const noexcept { return token_.stop_requested(); }
  void await_suspend(std::coroutine_handle<> waiting) noexcept;
  [[nodiscard]] std::int32_t await_resume() const noexcept { return result_; }

 private:
  void prepare(io_uring_sqe& entry) noexcept override { entry = entry_; }
  void complete(std::int32_t result, std::uint32_t flags) noexcept override;
  void on_stop() noexcept override { loop_.cancel(*this); }

  Loop& loop_;
  task::StopToken token_;
  std::coroutine_handle<> waiting_;
  std::int32_t result_ = -ECANCELED;
  io_uring_sqe entry_;
};

/// The awaitable of sleep().
class [[nodiscard]] SleepAwaitable : public RingAwaitable {
 public:
  SleepAwaitable(Loop& loop, std::chrono::nanoseconds duration, task::StopToken token) noexcept;
  /// 0 after the duration.
  std::int32_t await_resume() const noexcept;

 private:
  __kernel_timespec duration_;
};

/// IORING_OP_NOP.
RingAwaitable nop(Loop& loop, task::StopToken token = {}) noexcept;

// Files. At most 2 GiB - 4 KiB per call; transfers may be short. `flags` are RWF_*. `offset` is
// kCurrentPosition for files without positions: pipes, sockets, eventfds. The plain forms take one
// buffer, the vectored forms at most IOV_MAX (1024).

inline constexpr FileOffset kCurrentPosition = FileOffset(~std::uint64_t{0});

RingAwaitable read(Loop& loop, File file, std::span<std::byte> buffer, FileOffset offset,
                   task::StopToken token = {}) noexcept;
RingAwaitable write(Loop& loop, File file, std::span<const std::byte> buffer, FileOffset offset,
                    task::StopToken token = {}) noexcept;
RingAwaitable readv(Loop& loop, File file, std::span<const iovec> buffers, FileOffset offset,
                    int flags = 0, task::StopToken token = {}) noexcept;
RingAwaitable writev(Loop& loop, File file, std::span<const iovec> buffers, FileOffset offset,
                     int flags = 0, task::StopToken token = {}) noexcept;

enum class SyncKind : bool {
  kAll,   ///< fsync
  kData,  ///< fdatasync: without metadata not needed to read the data back
};
RingAwaitable fsync(Loop& loop, File file, SyncKind kind, task::StopToken token = {}) noexcept;
/// `mode`: FALLOC_FL_*.
RingAwaitable fallocate(Loop& loop, File file, int mode, FileOffset offset, ByteCount length,
                        task::StopToken token = {}) noexcept;

// Sockets and events.

/// `flags`: MSG_*. Writes to `message`.
RingAwaitable recvmsg(Loop& loop, File socket, msghdr& message, int flags = 0,
                      task::StopToken token = {}) noexcept;
RingAwaitable sendmsg(Loop& loop, File socket, const msghdr& message, int flags = 0,
                      task::StopToken token = {}) noexcept;
/// Returns the new descriptor, which belongs to the caller. `flags`: SOCK_CLOEXEC and so on.
RingAwaitable accept(Loop& loop, File socket, int flags = SOCK_CLOEXEC,
                     task::StopToken token = {}) noexcept;
RingAwaitable connect(Loop& loop, File socket, const sockaddr& address, socklen_t length,
                      task::StopToken token = {}) noexcept;
/// Waits for one of `events` (POLLIN and so on). Returns the events that occurred.
RingAwaitable poll(Loop& loop, File file, unsigned events, task::StopToken token = {}) noexcept;
/// Returns 0 after `duration`, or -ECANCELED.
SleepAwaitable sleep(Loop& loop, std::chrono::nanoseconds duration,
                     task::StopToken token = {}) noexcept;

}  // namespace guestio::uring
