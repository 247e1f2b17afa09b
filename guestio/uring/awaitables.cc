// SPDX-License-Identifier: MIT
#include "guestio/uring/awaitables.h"

#include <algorithm>
#include <cerrno>

#include "guestio/base/check.h"

namespace guestio::uring {
namespace {

// The kernel's MAX_RW_COUNT.
constexpr std::size_t kMaxTransfer = 0x7ffff000;

unsigned to_length(std::size_t size) noexcept {
  return static_cast<unsigned>(std::min(size, kMaxTransfer));
}

// The kernel rejects counts beyond its maximum; the count here must only not wrap.
unsigned to_count(std::size_t size) noexcept {
  return static_cast<unsigned>(std::min<std::size_t>(size, UINT32_MAX));
}

// An SQE for `file`. `prepare` comes first because it also sets the descriptor.
template <typename Prepare>
io_uring_sqe make_entry(File file, Prepare prepare) noexcept {
  io_uring_sqe entry{};
  prepare(&entry);
  file.apply_to(entry);
  return entry;
}

io_uring_sqe make_timeout(const __kernel_timespec& duration) noexcept {
  io_uring_sqe entry{};
  // The kernel only reads the duration.
  ::io_uring_prep_timeout(&entry, const_cast<__kernel_timespec*>(&duration), 0, 0);
  return entry;
}

__kernel_timespec to_timespec(std::chrono::nanoseconds duration) noexcept {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(duration);
  return {.tv_sec = seconds.count(), .tv_nsec = (duration - seconds).count()};
}

}  // namespace

void RingAwaitable::await_suspend(std::coroutine_handle<> waiting) noexcept {
  waiting_ = waiting;
  loop_.start(*this);
  GUESTIO_CHECK(listen(token_), "a token not stopped, as await_ready() has seen");
}

void RingAwaitable::complete(std::int32_t result, std::uint32_t) noexcept {
  stop_listening();
  result_ = result;
  waiting_.resume();  // usually destroys this
}

SleepAwaitable::SleepAwaitable(Loop& loop, std::chrono::nanoseconds duration,
                               task::StopToken token) noexcept
    : RingAwaitable(loop, make_timeout(duration_), token),
      duration_(to_timespec(std::max(duration, std::chrono::nanoseconds(0)))) {}

std::int32_t SleepAwaitable::await_resume() const noexcept {
  const std::int32_t result = RingAwaitable::await_resume();
  return result == -ETIME ? 0 : result;
}

RingAwaitable nop(Loop& loop, task::StopToken token) noexcept {
  io_uring_sqe entry{};
  ::io_uring_prep_nop(&entry);
  return {loop, entry, token};
}

RingAwaitable read(Loop& loop, File file, std::span<std::byte> buffer, FileOffset offset,
                   task::StopToken token) noexcept {
  const auto entry = make_entry(file, [&](io_uring_sqe* to) {
    ::io_uring_prep_read(to, -1, buffer.data(), to_length(buffer.size()), offset.raw());
  });
  return {loop, entry, token};
}

RingAwaitable write(Loop& loop, File file, std::span<const std::byte> buffer, FileOffset offset,
                    task::StopToken token) noexcept {
  const auto entry = make_entry(file, [&](io_uring_sqe* to) {
    ::io_uring_prep_write(to, -1, buffer.data(), to_length(buffer.size()), offset.raw());
  });
  return {loop, entry, token};
}

RingAwaitable readv(Loop& loop, File file, std::span<const iovec> buffers, FileOffset offset,
                    int flags, task::StopToken token) noexcept {
  const auto entry = make_entry(file, [&](io_uring_sqe* to) {
    ::io_uring_prep_readv2(to, -1, buffers.data(), to_count(buffers.size()), offset.raw(), flags);
  });
  return {loop, entry, token};
}

RingAwaitable writev(Loop& loop, File file, std::span<const iovec> buffers, FileOffset offset,
                     int flags, task::StopToken token) noexcept {
  const auto entry = make_entry(file, [&](io_uring_sqe* to) {
    ::io_uring_prep_writev2(to, -1, buffers.data(), to_count(buffers.size()), offset.raw(), flags);
  });
  return {loop, entry, token};
}

RingAwaitable fsync(Loop& loop, File file, SyncKind kind, task::StopToken token) noexcept {
  const auto entry = make_entry(file, [&](io_uring_sqe* to) {
    ::io_uring_prep_fsync(to, -1, kind == SyncKind::kData ? IORING_FSYNC_DATASYNC : 0U);
  });
  return {loop, entry, token};
}

RingAwaitable fallocate(Loop& loop, File file, int mode, FileOffset offset, ByteCount length,
                        task::StopToken token) noexcept {
  const auto entry = make_entry(file, [&](io_uring_sqe* to) {
    ::io_uring_prep_fallocate(to, -1, mode, static_cast<off_t>(offset.raw()),
                              static_cast<off_t>(length.raw()));
  });
  return {loop, entry, token};
}

RingAwaitable recvmsg(Loop& loop, File socket, msghdr& message, int flags,
                      task::StopToken token) noexcept {
  const auto entry = make_entry(socket, [&](io_uring_sqe* to) {
    ::io_uring_prep_recvmsg(to, -1, &message, static_cast<unsigned>(flags));
  });
  return {loop, entry, token};
}

RingAwaitable sendmsg(Loop& loop, File socket, const msghdr& message, int flags,
                      task::StopToken token) noexcept {
  const auto entry = make_entry(socket, [&](io_uring_sqe* to) {
    ::io_uring_prep_sendmsg(to, -1, &message, static_cast<unsigned>(flags));
  });
  return {loop, entry, token};
}

RingAwaitable accept(Loop& loop, File socket, int flags, task::StopToken token) noexcept {
  const auto entry = make_entry(
      socket, [&](io_uring_sqe* to) { ::io_uring_prep_accept(to, -1, nullptr, nullptr, flags); });
  return {loop, entry, token};
}

RingAwaitable connect(Loop& loop, File socket, const sockaddr& address, socklen_t length,
                      task::StopToken token) noexcept {
  const auto entry = make_entry(
      socket, [&](io_uring_sqe* to) { ::io_uring_prep_connect(to, -1, &address, length); });
  return {loop, entry, token};
}

RingAwaitable poll(Loop& loop, File file, unsigned events, task::StopToken token) noexcept {
  const auto entry =
      make_entry(file, [&](io_uring_sqe* to) { ::io_uring_prep_poll_add(to, -1, events); });
  return {loop, entry, token};
}

SleepAwaitable sleep(Loop& loop, std::chrono::nanoseconds duration,
                     task::StopToken token) noexcept {
  return {loop, duration, token};
}

}  // namespace guestio::uring
