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

/// System calls to be awaited:
///
///     const std::int32_t result = co_await uring::read(loop, file, buffer, FileOffset(0), token);
///     if (result < 0) co_return fail(Error::host(-result, "read"));
///
/// The result is what the system call returns, or -errno. When `token` is stopped, the kernel is
/// asked to give up and the coroutine goes on once it has let go of the buffers: with -ECANCELED,
/// or with the call's own result when that was faster. A token that is stopped beforehand gives
/// -ECANCELED without a call.
///
/// What is passed by reference (buffers, addresses, message headers) stays the caller's and must
/// live until the coroutine goes on, which is on the loop's thread, from within run(). The
/// coroutine must not be destroyed before that (checked).
namespace guestio::uring {

/// One call in progress; lives in the awaiting coroutine's frame.
class [[nodiscard]] RingAwaitable : public Operation, private task::StopListener {
 public:
  /// `entry`: what is to be submitted. Most use the functions below.
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

/// A pause; see sleep().
class [[nodiscard]] SleepAwaitable : public RingAwaitable {
 public:
  SleepAwaitable(Loop& loop, std::chrono::nanoseconds duration, task::StopToken token) noexcept;
  /// 0 when the time is over.
  std::int32_t await_resume() const noexcept;

 private:
  __kernel_timespec duration_;
};

/// Does nothing, once through the kernel.
RingAwaitable nop(Loop& loop, task::StopToken token = {}) noexcept;

// Files. At most 2 GiB - 4 KiB a call; fewer bytes than asked for may be moved. `flags` are RWF_*.
// `offset` is kCurrentPosition for what has no positions: pipes, sockets, eventfds.
// The plain forms pass one buffer, the vectored ones at most IOV_MAX (1024).

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
  kData,  ///< fdatasync: without metadata that is not needed to read the data back
};
RingAwaitable fsync(Loop& loop, File file, SyncKind kind, task::StopToken token = {}) noexcept;
/// `mode`: FALLOC_FL_*.
RingAwaitable fallocate(Loop& loop, File file, int mode, FileOffset offset, ByteCount length,
                        task::StopToken token = {}) noexcept;

// Sockets and events.

/// `flags`: MSG_*. `message` is written to.
RingAwaitable recvmsg(Loop& loop, File socket, msghdr& message, int flags = 0,
                      task::StopToken token = {}) noexcept;
RingAwaitable sendmsg(Loop& loop, File socket, const msghdr& message, int flags = 0,
                      task::StopToken token = {}) noexcept;
/// Gives the new descriptor, which is the caller's; `flags`: SOCK_CLOEXEC and so on.
RingAwaitable accept(Loop& loop, File socket, int flags = SOCK_CLOEXEC,
                     task::StopToken token = {}) noexcept;
RingAwaitable connect(Loop& loop, File socket, const sockaddr& address, socklen_t length,
                      task::StopToken token = {}) noexcept;
/// Waits for one of POLLIN and so on; gives those that came.
RingAwaitable poll(Loop& loop, File file, unsigned events, task::StopToken token = {}) noexcept;
/// Gives 0 after `duration`, or -ECANCELED.
SleepAwaitable sleep(Loop& loop, std::chrono::nanoseconds duration,
                     task::StopToken token = {}) noexcept;

}  // namespace guestio::uring
