// SPDX-License-Identifier: MIT
#include "guestio/disk/rbd/rbd_channel.h"

#include <cerrno>
#include <utility>

#include "guestio/base/check.h"
#include "guestio/disk/rbd/rbd_error.h"

namespace guestio::disk {

namespace {

const char* operation_of(IoKind kind) noexcept {
  switch (kind) {
    case IoKind::kRead: return "read the image";
    case IoKind::kWrite: return "write the image";
    case IoKind::kFlush: return "flush the image";
    case IoKind::kDiscard: return "discard blocks of the image";
    default: return "zero blocks of the image";
  }
}

Result<> to_result(const RemoteCommand::Work& work, ssize_t result) noexcept {
  if (result < 0) return fail(Error::host(static_cast<int>(-result), operation_of(work.kind)));
  if (work.kind != IoKind::kRead || static_cast<std::uint64_t>(result) == work.length) return {};
  return fail(ErrorKind::kShortTransfer, operation_of(work.kind),
              static_cast<std::uint64_t>(result), work.length);
}

}  // namespace

RbdChannel::RbdChannel(RemoteDisk& disk, std::shared_ptr<RbdSession> session, uring::Loop& loop,
                       buf::OpenBounceAccount bounce)
    : RemoteChannel(disk, loop, std::move(bounce)),
      session_(std::move(session)),
      subscriber_(std::make_shared<RbdSession::Subscriber>()) {
  subscriber_->loop = &loop;
  subscriber_->refresh = [this] { refresh(); };
  subscriber_->submitted = &submitted_;
  subscriber_->completed = &completed_;
  session_->subscribe(subscriber_);
  // A change before the subscription is seen here, a later one by refresh().
  view_ = session_->view();
  was_away_ = view_.phase == RbdSession::Phase::kAway;
}

RbdChannel::~RbdChannel() {
  GUESTIO_CHECK(waiting_.empty() && is_idle(),
                "no request in flight on a channel that is destroyed");
  session_->unsubscribe(subscriber_);
  // It may be in the loop's mailbox still.
  subscriber_->refresh = nullptr;
  // The last callback of librbd may hold the mutex still.
  const std::lock_guard lock(mutex_);
}

void RbdChannel::submit(RemoteCommand& command) noexcept {
  switch (view_.phase) {
    case RbdSession::Phase::kReady: return start_command(command);
    case RbdSession::Phase::kWaiting:
      waiting_.push_back(command);
      return session_->on_waiting_request();
    case RbdSession::Phase::kAway: break;
  }
  command.complete(fail(ErrorKind::kClosed, "the Ceph cluster"));
}

void RbdChannel::start_command(RemoteCommand& command) noexcept {
  rbd_completion_t completion = nullptr;
  command.tag = reinterpret_cast<std::uintptr_t>(this);
  ++submitted_;
  int r = ::rbd_aio_create_completion(&command, &RbdChannel::on_complete, &completion);
  if (r == 0) {
    r = call_librbd(command, completion);
    if (r == 0) return;
    ::rbd_aio_release(completion);
  }
  ++completed_;
  command.complete(to_result(command.work(), r));
}

int RbdChannel::call_librbd(RemoteCommand& command, rbd_completion_t completion) noexcept {
  const rbd_image_t image = view_.image->handle();
  const RemoteCommand::Work& work = command.work();
  const std::uint64_t offset = work.offset.raw();
  auto* const data = reinterpret_cast<char*>(work.data.data());
  switch (work.kind) {
    case IoKind::kRead: return ::rbd_aio_read(image, offset, work.length, data, completion);
    case IoKind::kWrite: return ::rbd_aio_write(image, offset, work.length, data, completion);
    case IoKind::kFlush: return ::rbd_aio_flush(image, completion);
    case IoKind::kDiscard: return ::rbd_aio_discard(image, offset, work.length, completion);
    case IoKind::kWriteZeroes: {
      const int flags =
          work.unmap == Unmap::kAllowed ? 0 : int{RBD_WRITE_ZEROES_FLAG_THICK_PROVISION};
      return ::rbd_aio_write_zeroes(image, offset, work.length, completion, flags, 0);
    }
    case IoKind::kSecureErase: break;
  }
  return -EOPNOTSUPP;
}

void RbdChannel::on_complete(rbd_completion_t completion, void* argument) noexcept {
  auto* const command = static_cast<RemoteCommand*>(argument);
  // The tag is start_command()'s.
  auto* const self = reinterpret_cast<RbdChannel*>(static_cast<std::uintptr_t>(command->tag));
  const ssize_t result = ::rbd_aio_get_return_value(completion);
  ::rbd_aio_release(completion);
  self->add_finished({command, result});
}

void RbdChannel::add_finished(Finished finished) noexcept {
  const std::lock_guard lock(mutex_);
  finished_.push_back(finished);
  if (std::exchange(is_posted_, true)) return;
  // Under the mutex: drain() comes after it, so the channel and its loop are alive.
  loop().post([this] { drain(); });
}

void RbdChannel::drain() noexcept {
  {
    const std::lock_guard lock(mutex_);
    draining_.swap(finished_);
    is_posted_ = false;
  }
  if (session_->is_stalled()) session_->on_progress();
  // Completions submit further requests, and never drain.
  for (const Finished& finished : draining_) finish(finished);
  draining_.clear();
}

void RbdChannel::finish(const Finished& finished) noexcept {
  RemoteCommand& command = *finished.command;
  ++completed_;
  if (finished.result >= 0 || !wait_after_failure(command, static_cast<int>(-finished.result))) {
    command.complete(to_result(command.work(), finished.result));
  }
  if (must_refresh_ && is_idle()) refresh();
}

bool RbdChannel::wait_after_failure(RemoteCommand& command, int error) noexcept {
  const IoKind kind = command.work().kind;
  const bool is_write = kind != IoKind::kRead && kind != IoKind::kFlush;
  if (is_fenced_errno(error)) {
    session_->on_fenced(view_.image.get());
  } else if (error == EROFS && is_write && session_->uses_lock()) {
    session_->on_lock_lost(view_.image.get());
  } else {
    return false;
  }
  waiting_.push_back(command);
  view_.phase = RbdSession::Phase::kWaiting;
  must_refresh_ = true;
  return true;
}

void RbdChannel::refresh() noexcept {
  auto latest = session_->view();
  must_refresh_ = latest.image != view_.image && !is_idle();
  if (must_refresh_) {
    // Requests in flight keep their image, and new ones wait for their end.
    const bool is_away = latest.phase == RbdSession::Phase::kAway;
    view_.phase = is_away ? latest.phase : RbdSession::Phase::kWaiting;
  } else {
    view_ = std::move(latest);
  }
  serve_waiting();
}

void RbdChannel::serve_waiting() noexcept {
  if (view_.phase == RbdSession::Phase::kWaiting) return;
  Commands waiting;
  waiting.swap(waiting_);
  while (!waiting.empty()) {
    RemoteCommand& command = waiting.front();
    waiting.pop_front();
    submit(command);
  }
  const bool is_away = view_.phase == RbdSession::Phase::kAway;
  if (std::exchange(was_away_, is_away) && !is_away) notify_available();
}

}  // namespace guestio::disk
