// SPDX-License-Identifier: MIT
#include "guestio/disk/nbd/tls_connection.h"

#include <poll.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <utility>

#include "guestio/base/check.h"

namespace guestio::disk {

namespace {

constexpr std::size_t kTlsReplyHeader = 16;
// Of one turn: other channels of the thread get theirs.
constexpr int kMaxTlsRepliesPerTurn = 64;

}  // namespace

// The tag of a command in flight is the address of its connection; of a replied one, its errno.

TlsConnection::TlsConnection(uring::Loop& loop, NbdHandle handle, Owner& owner)
    : NbdConnection(owner),
      loop_(loop),
      handle_(std::move(handle)),
      readable_(loop, [this](std::int32_t) { on_readable(); }),
      writable_(loop, [this](std::int32_t) { on_writable(); }) {
  // Requests are within the export: the disk checks them. After growth libnbd knows an old size.
  (void)::nbd_set_strict_mode(handle_.get(), 0);
  wait_for_socket();
}

TlsConnection::~TlsConnection() {
  GUESTIO_CHECK(in_flight_.empty() && replied_.empty(),
                "no command in flight on a connection that is destroyed");
  // A word of farewell, if the socket takes it: servers report its absence.
  if (handle_ && ::nbd_aio_is_ready(handle_.get()) == 1) {
    (void)::nbd_aio_disconnect(handle_.get(), 0);
  }
}

int TlsConnection::on_reply(void* command, int* error) noexcept {
  auto& replied = *static_cast<RemoteCommand*>(command);
  // Safe: the address of the connection, which outlives its commands.
  auto& self = *std::bit_cast<TlsConnection*>(static_cast<std::uintptr_t>(replied.tag));
  self.in_flight_.erase(Commands::s_iterator_to(replied));
  self.replied_.push_back(replied);
  self.count_reply();
  self.replied_bytes_ += kTlsReplyHeader;
  if (*error == 0 && replied.work().kind == IoKind::kRead) {
    self.replied_bytes_ += replied.work().length;
  }
  replied.tag = static_cast<std::uint64_t>(*error);
  return 1;  // libnbd forgets the command
}

void TlsConnection::submit(RemoteCommand& command) noexcept {
  if (!handle_) return command.complete(fail(ErrorKind::kClosed, "NBD server"));
  command.tag = reinterpret_cast<std::uintptr_t>(this);
  in_flight_.push_back(command);
  if (!issue(command)) {
    const bool has_reply = command.tag != reinterpret_cast<std::uintptr_t>(this);
    if (!has_reply) {
      in_flight_.erase(Commands::s_iterator_to(command));
      command.tag =
          static_cast<std::uint64_t>(has_ended() ? ENOTCONN : std::max(::nbd_get_errno(), EIO));
      replied_.push_back(command);
    }
    if (cause_.empty()) cause_ = last_nbd_error();
  }
  if (!replied_.empty() || has_ended()) {
    loop_.defer(*this);
  } else {
    wait_for_socket();
  }
}

bool TlsConnection::issue(RemoteCommand& command) noexcept {
  const RemoteCommand::Work& work = command.work();
  const nbd_completion_callback completion{
      .callback = &TlsConnection::on_reply, .user_data = &command, .free = nullptr};
  const std::uint32_t fua =
      work.durability == Durability::kStable ? std::uint32_t{LIBNBD_CMD_FLAG_FUA} : 0;
  nbd_handle* const handle = handle_.get();
  const std::uint64_t offset = work.offset.raw();
  switch (work.kind) {
    case IoKind::kRead:
      return ::nbd_aio_pread(handle, work.data.data(), work.length, offset, completion, 0) >= 0;
    case IoKind::kWrite:
      return ::nbd_aio_pwrite(handle, work.data.data(), work.length, offset, completion, fua) >= 0;
    case IoKind::kFlush: return ::nbd_aio_flush(handle, completion, 0) >= 0;
    case IoKind::kDiscard: return ::nbd_aio_trim(handle, work.length, offset, completion, fua) >= 0;
    case IoKind::kWriteZeroes: {
      const std::uint32_t no_hole =
          work.unmap == Unmap::kForbidden ? std::uint32_t{LIBNBD_CMD_FLAG_NO_HOLE} : 0;
      return ::nbd_aio_zero(handle, work.length, offset, completion, fua | no_hole) >= 0;
    }
    case IoKind::kSecureErase: break;
  }
  return false;
}

void TlsConnection::on_readable() {
  // A call handles one reply. The number of bytes in the socket saves a poll between two of them;
  // of a TLS connection it is only a hint.
  int ready = 0;
  if (::ioctl(::nbd_aio_get_fd(handle_.get()), FIONREAD, &ready) != 0) ready = 0;
  std::size_t left = static_cast<std::size_t>(std::max(ready, 0));
  for (int i = 0; i < kMaxTlsRepliesPerTurn && !has_ended(); ++i) {
    const std::uint64_t before = replies();
    replied_bytes_ = 0;
    if (::nbd_aio_notify_read(handle_.get()) != 0) {
      cause_ = last_nbd_error();
      break;
    }
    left -= std::min(left, replied_bytes_);
    if (replies() == before || left < kTlsReplyHeader) break;
  }
  // libnbd 1.14 waits in a state without transmission after a read that brought nothing, such as a
  // part of a TLS record; another one ends it.
  const bool is_stuck = !has_ended() && ::nbd_aio_is_ready(handle_.get()) == 0 &&
                        ::nbd_aio_get_direction(handle_.get()) == LIBNBD_AIO_DIRECTION_READ;
  if (is_stuck && ::nbd_aio_notify_read(handle_.get()) != 0) cause_ = last_nbd_error();
  settle();
}

void TlsConnection::on_writable() {
  const bool is_wanted =
      !has_ended() && (::nbd_aio_get_direction(handle_.get()) & LIBNBD_AIO_DIRECTION_WRITE) != 0;
  if (is_wanted && ::nbd_aio_notify_write(handle_.get()) != 0) cause_ = last_nbd_error();
  settle();
}

bool TlsConnection::has_ended() const noexcept {
  return !handle_ || ::nbd_aio_is_dead(handle_.get()) != 0 ||
         ::nbd_aio_is_closed(handle_.get()) != 0;
}

void TlsConnection::settle() {
  if (std::exchange(is_settling_, true)) return;
  while (!replied_.empty()) {
    RemoteCommand& command = replied_.front();
    replied_.pop_front();
    command.complete(nbd_result(command.work().kind, static_cast<int>(command.tag)));
  }
  is_settling_ = false;
  if (!has_ended()) return wait_for_socket();
  const std::string cause = cause_.empty() ? "the server closed the connection" : cause_;
  (void)abandon();
  owner().on_connection_lost(cause, NbdUnfinished());
}

void TlsConnection::wait_for_socket() {
  const unsigned direction = ::nbd_aio_get_direction(handle_.get());
  const int fd = ::nbd_aio_get_fd(handle_.get());
  if ((direction & LIBNBD_AIO_DIRECTION_READ) != 0 && !readable_.is_waiting()) {
    readable_.poll(fd, POLLIN);
  }
  if ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0 && !writable_.is_waiting()) {
    writable_.poll(fd, POLLOUT);
  }
}

bool TlsConnection::has_changes_in_flight() const noexcept {
  return std::ranges::any_of(
      in_flight_, [](const RemoteCommand& command) { return is_nbd_change(command.work().kind); });
}

NbdUnfinished TlsConnection::abandon() {
  NbdUnfinished unfinished;
  if (!has_ended()) {
    // Without a copy the peer would see the end of the connection now. What libnbd has encrypted
    // and not sent is lost: no rest.
    if (auto copy = duplicate_fd(::nbd_aio_get_fd(handle_.get()))) {
      unfinished.socket = std::move(*copy);
      unfinished.has_changes = has_changes_in_flight();
    }
  }
  // First: libnbd may no longer write to the memory of commands that are complete.
  handle_.reset();
  Commands failed;
  failed.splice(failed.end(), replied_);
  failed.splice(failed.end(), in_flight_);
  while (!failed.empty()) {
    RemoteCommand& command = failed.front();
    failed.pop_front();
    command.complete(fail(ErrorKind::kClosed, "NBD server"));
  }
  return unfinished;
}

}  // namespace guestio::disk
