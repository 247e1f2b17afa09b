// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"
#include "guestio/task/task.h"
#include "guestio/uring/loop.h"
#include "guestio/uring/poll.h"
#include "guestio/vhost/session/back_channel.h"
#include "guestio/vhost/session/ring_state.h"
#include "guestio/vhost/wire/messages.h"
#include "guestio/vhost/wire/ring_event.h"

namespace guestio::vhost {

/// The events of one ring whose front-end wants them as messages (vhost-user,
/// VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS), such as one that simulates time. The ring itself
/// knows nothing of that: it is given eventfds of ours, one for each event that has no descriptor
/// of the front-end's, and what is signalled there is said over the way back.
///
/// Threads: the control thread, which runs `home`. Lifetime: close() before it is destroyed.
class InbandRing {
 public:
  InbandRing(uring::Loop& home, BackChannel& channel, std::uint16_t index) noexcept
      : home_(home), channel_(channel), index_(index) {}
  InbandRing(const InbandRing&) = delete;
  InbandRing& operator=(const InbandRing&) = delete;
  ~InbandRing() = default;

  /// A descriptor for the ring that stands for messages. Errors: host.
  Result<UniqueFd> descriptor_for(RingEvent event);
  /// The front-end has kicked (VRING_KICK). Nothing happens unless the ring has a descriptor for
  /// it.
  void kick() noexcept;
  /// The front-end may have missed what was said: it is said again, on a way back that is new.
  void resend() noexcept;
  task::Task<> close();

  // For another process that is to go on with the ring.

  /// Says nothing until go_on().
  task::Task<> freeze();
  void resume();
  /// Errors: host. Requires: paused.
  [[nodiscard]] Result<InbandState> snapshot() const;
  /// Goes on with another's events, paused. Errors: peer fault (what is no eventfd).
  Result<> restore(InbandState events);

 private:
  /// An event of ours and what waits for it.
  struct Said {
    Said(UniqueFd event, uring::Loop& loop, std::move_only_function<void()> say);
    const UniqueFd fd;
    uring::MultishotPoll poll;
  };

  void say(RingEvent event) noexcept;
  [[nodiscard]] std::optional<Said>& said_of(RingEvent event) noexcept {
    return event == RingEvent::kCall ? call_ : error_;
  }

  uring::Loop& home_;
  BackChannel& channel_;
  const std::uint16_t index_;
  UniqueFd kick_;
  std::optional<Said> call_;
  std::optional<Said> error_;
};

}  // namespace guestio::vhost
