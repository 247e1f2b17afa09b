// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>

#include "guestio/task/event.h"
#include "guestio/uring/loop.h"

namespace guestio::uring {

/// Calls back each time a descriptor becomes ready, until stop(). For events of a peer. An eventfd
/// need not be read: each write calls back again, although several writes between two iterations of
/// the loop may share one callback. Needs no system calls of its own.
///
///     MultishotPoll kick(loop, File(fd), POLLIN, [&](std::int32_t) { serve_ring(); });
///     kick.start();
///     ...
///     co_await kick.stop();
///
/// 1. A descriptor already ready at start() calls back too. Callbacks may be spurious, never
/// missing.
/// 2. A poll terminated by the kernel is started again.
/// 3. The callback gets the events (POLLIN …). It gets -errno at most once, if the kernel cannot
/// poll
///    the descriptor; that is the last callback.
/// 4. No callback after stop(). The callback may call stop() and must not destroy this object.
///
/// Lifetime: must not be destroyed between start() and the end of the awaited stop() (checked).
/// Threads: the loop's.
class MultishotPoll final : private Operation {
 public:
  using Callback = std::move_only_function<void(std::int32_t events)>;

  /// The caller keeps `file` open until the awaited stop() has ended.
  MultishotPoll(Loop& loop, File file, unsigned events, Callback callback);

  /// Requires: not active.
  void start() noexcept;

  /// Cancels the poll; `co_await poll.stop()` resumes after its end. The call itself requests the
  /// cancellation, so the wait may come later, or again. Returns a completed wait when not active.
  task::Event::Awaiter stop() noexcept;

  /// Between start() and the end of the poll.
  [[nodiscard]] bool is_active() const noexcept { return !ended_.is_set(); }

 private:
  void prepare(io_uring_sqe& entry) noexcept override;
  void complete(std::int32_t result, std::uint32_t flags) noexcept override;

  Loop& loop_;
  const File file_;
  const unsigned events_;
  Callback callback_;
  bool is_stopping_ = false;
  task::Event ended_;
};

}  // namespace guestio::uring
