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

/// In-band notifications of one ring (vhost-user, VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS), for
/// front-ends such as one that simulates time. The ring itself uses eventfds of ours in place of
/// the front-end's; their signals become messages on the back channel.
///
/// Threads: the control thread, which runs `home`. Lifetime: close() before the destructor.
class InbandRing {
 public:
  InbandRing(uring::Loop& home, BackChannel& channel, std::uint16_t index) noexcept
      : home_(home), channel_(channel), index_(index) {}
  InbandRing(const InbandRing&) = delete;
  InbandRing& operator=(const InbandRing&) = delete;
  ~InbandRing() = default;

  /// A descriptor for the ring in place of messages. Errors: host.
  Result<UniqueFd> descriptor_for(RingEvent event);
  /// VRING_KICK of the front-end. Without effect unless the ring has a descriptor for kicks.
  void kick() noexcept;
  /// Sends the call again on a new back channel: the last one may be lost.
  void resend() noexcept;
  task::Task<> close();

  // Takeover by another process.

  /// Sends nothing until resume().
  task::Task<> freeze();
  void resume();
  /// Errors: host. Requires: frozen.
  [[nodiscard]] Result<InbandState> snapshot() const;
  /// Continues with another process's eventfds, frozen. Errors: peer fault (not a non-blocking
  /// eventfd).
  Result<> restore(InbandState state);

 private:
  /// An eventfd of ours and its poll.
  struct Source {
    Source(UniqueFd event, uring::Loop& loop, std::move_only_function<void()> on_signal);
    const UniqueFd fd;
    uring::MultishotPoll poll;
  };

  void send(RingEvent event) noexcept;
  [[nodiscard]] std::optional<Source>& source_of(RingEvent event) noexcept {
    return event == RingEvent::kCall ? call_ : error_;
  }

  uring::Loop& home_;
  BackChannel& channel_;
  const std::uint16_t index_;
  UniqueFd kick_;
  std::optional<Source> call_;
  std::optional<Source> error_;
};

}  // namespace guestio::vhost
