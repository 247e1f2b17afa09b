// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>

#include "guestio/task/event.h"
#include "guestio/uring/loop.h"

namespace guestio::uring {

/// Calls back each time a descriptor becomes ready, until it is stopped. For events of a peer: an
/// eventfd need not be read, each write to it calls back again (several between two iterations of
/// the loop may do so once); nothing costs a system call of its own.
///
///     MultishotPoll kick(loop, File(fd), POLLIN, [&](std::int32_t) { serve_ring(); });
///     kick.start();
///     ...
///     co_await kick.stop();
///
/// 1. A descriptor that is ready at start() calls back too. Call-backs may come too often (treat
///    them as "look again"), never too rarely.
/// 2. A poll that the kernel ends is started again.
/// 3. The call-back gets the events that came (POLLIN …). It gets -errno at most once, when the
///    kernel cannot poll the descriptor: nothing follows then, the poll is over.
/// 4. No call-back after stop(). The call-back may call stop(), and must not destroy this object.
///
/// Lifetime: from start() until stop() has been waited for the object must not be destroyed
/// (checked).
/// Threads: the loop's.
class MultishotPoll final : private Operation {
 public:
  using Callback = std::move_only_function<void(std::int32_t events)>;

  /// `file` stays the caller's and open until stop() is over.
  MultishotPoll(Loop& loop, File file, unsigned events, Callback callback);

  /// Requires: not active.
  void start() noexcept;

  /// Asks the kernel to end it; `co_await poll.stop()` goes on when it has. The request is made
  /// by the call itself, so the wait may come later, or again. When not active there is nothing to
  /// wait for.
  task::Event::Awaiter stop() noexcept;

  /// Between start() and the end.
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
