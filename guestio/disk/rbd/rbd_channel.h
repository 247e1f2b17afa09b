// SPDX-License-Identifier: MIT
#pragma once

#include <rbd/librbd.h>
#include <boost/intrusive/list.hpp>

#include <memory>
#include <mutex>
#include <vector>

#include "guestio/base/counter.h"
#include "guestio/disk/rbd/rbd_session.h"
#include "guestio/disk/remote/remote_channel.h"

namespace guestio::disk {

/// One thread's channel to an RBD image.
///
///     submit() ──► librbd … its thread: on_complete() ──► finished_ ──(one post a batch)──►
///     drain()
///
/// librbd hands a request to a thread of its own (rbd_non_blocking_aio), so a submission does not
/// block. While the session has no image to write to, requests wait here, in order. Requests of a
/// fenced client wait for the new image, too.
///
/// Threads: its loop's; on_complete(): librbd's.
class RbdChannel final : public RemoteChannel {
 public:
  RbdChannel(RemoteDisk& disk, std::shared_ptr<RbdSession> session, uring::Loop& loop,
             buf::OpenBounceAccount bounce);
  ~RbdChannel() override;

 private:
  struct Finished {
    RemoteCommand* command;
    ssize_t result;  ///< bytes of a read; negative error numbers
  };
  using Commands =
      boost::intrusive::list<RemoteCommand, boost::intrusive::constant_time_size<false>>;

  void submit(RemoteCommand& command) noexcept override;
  void start_command(RemoteCommand& command) noexcept;
  [[nodiscard]] int call_librbd(RemoteCommand& command, rbd_completion_t completion) noexcept;
  static void on_complete(rbd_completion_t completion, void* command) noexcept;
  void add_finished(Finished finished) noexcept;
  void drain() noexcept;
  void finish(const Finished& finished) noexcept;
  /// Whether the command waits for another attempt.
  [[nodiscard]] bool wait_after_failure(RemoteCommand& command, int error) noexcept;
  /// Follows the session.
  void refresh() noexcept;
  void serve_waiting() noexcept;
  [[nodiscard]] bool is_idle() const noexcept { return submitted_.value() == completed_.value(); }

  const std::shared_ptr<RbdSession> session_;
  std::shared_ptr<RbdSession::Subscriber> subscriber_;
  RbdSession::View view_;
  bool was_away_ = false;
  bool must_refresh_ = false;  // when nothing is in flight
  Commands waiting_;
  Counter submitted_;
  Counter completed_;
  std::vector<Finished> draining_;

  std::mutex mutex_;
  // protected by mutex_
  std::vector<Finished> finished_;
  bool is_posted_ = false;
};

}  // namespace guestio::disk
