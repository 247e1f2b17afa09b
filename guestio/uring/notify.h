// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include "guestio/base/error.h"
#include "guestio/uring/loop.h"
#include "guestio/uring/ring.h"

namespace guestio::uring {

/// Signals an eventfd that a peer gave us, without ever waiting for the peer.
///
/// write(2) is not safe for that: it blocks while the counter is at its maximum, the peer has the
/// counter in its hands, and O_NONBLOCK belongs to the open file that it shares with us, so it can
/// clear the flag after we have looked. Here the kernel signals for us instead: the eventfd is
/// registered with a ring of one entry, and an empty operation on that ring adds one to the
/// counter. The kernel does that without blocking, whatever the flags are; at the maximum the
/// counter stays there. Costs about twice as much as write(2).
///
/// Threads: any, one at a time.
class EventFdNotifier {
 public:
  /// Signals nobody.
  EventFdNotifier() noexcept = default;
  /// `eventfd` stays the caller's and may be closed afterwards.
  /// Errors: kHost; EINVAL when it is not an eventfd.
  static Result<EventFdNotifier> create(int eventfd) noexcept;

  EventFdNotifier(EventFdNotifier&& other) noexcept
      : ring_(std::exchange(other.ring_, std::nullopt)), takes_messages_(other.takes_messages_) {}
  EventFdNotifier& operator=(EventFdNotifier&& other) noexcept {
    ring_ = std::exchange(other.ring_, std::nullopt);
    takes_messages_ = other.takes_messages_;
    return *this;
  }

  /// False when default-made or moved from.
  [[nodiscard]] explicit operator bool() const noexcept { return ring_.has_value(); }

  /// The same with the next submission of `loop`, without a call of its own.
  void notify_with(Loop& loop) noexcept;

  /// Adds one to the counter before it returns; what was stored before is visible to whoever sees
  /// the counter. One system call.
  void notify() noexcept;

 private:
  explicit EventFdNotifier(Ring ring) noexcept;
  void drop_completions() noexcept;

  std::optional<Ring> ring_;
  bool takes_messages_ = false;  // Linux 5.18
};

}  // namespace guestio::uring
