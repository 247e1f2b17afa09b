// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include "guestio/base/error.h"
#include "guestio/uring/loop.h"
#include "guestio/uring/ring.h"

namespace guestio::uring {

/// Signals a peer's eventfd without ever blocking on the peer.
///
/// write(2) is not safe here. It blocks while the counter is at its maximum, and the peer controls
/// the counter. O_NONBLOCK belongs to the open file description shared with the peer, so the peer
/// can clear it after our check.
///
/// Instead, the eventfd is registered with a ring of one entry. A no-op on that ring makes the
/// kernel add one to the counter, without blocking and independent of the flags. At the maximum the
/// counter stays unchanged. Costs about twice as much as write(2).
///
/// Threads: any, one at a time.
class EventFdNotifier {
 public:
  /// Without an eventfd; notify() has no effect.
  EventFdNotifier() noexcept = default;
  /// The caller keeps `eventfd` and may close it afterwards.
  /// Errors: kHost; EINVAL for other descriptors than eventfds.
  static Result<EventFdNotifier> create(int eventfd) noexcept;

  EventFdNotifier(EventFdNotifier&& other) noexcept
      : ring_(std::exchange(other.ring_, std::nullopt)),
        supports_msg_ring_(other.supports_msg_ring_) {}
  EventFdNotifier& operator=(EventFdNotifier&& other) noexcept {
    ring_ = std::exchange(other.ring_, std::nullopt);
    supports_msg_ring_ = other.supports_msg_ring_;
    return *this;
  }

  /// False when default-constructed or moved from.
  [[nodiscard]] explicit operator bool() const noexcept { return ring_.has_value(); }

  /// As notify(), but with the next submission of `loop` instead of a system call of its own.
  void notify_with(Loop& loop) noexcept;

  /// Adds one to the counter before returning. Earlier stores are visible to a reader of the
  /// counter. One system call.
  void notify() noexcept;

 private:
  explicit EventFdNotifier(Ring ring) noexcept;
  void discard_completions() noexcept;

  std::optional<Ring> ring_;
  bool supports_msg_ring_ = false;  // Linux 5.18
};

}  // namespace guestio::uring
