// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>

#include "guestio/base/error.h"
#include "guestio/base/peer_log.h"
#include "guestio/registered/registration_scope.h"

/// What the log says about registered guest memory.
namespace guestio::registered {

/// The log lines of one front-end's registrations. Each warning appears once.
///
/// Threads: any.
class RegistrationLog {
 public:
  RegistrationLog(RegistrationScope scope, std::shared_ptr<PeerLog> log) noexcept
      : scope_(scope), log_(std::move(log)) {}

  /// The kernel, a limit or a full table refuses a region.
  void warn_refused(const Error& refusal) noexcept;
  /// A region lies in a file of another kind.
  void warn_other_file() noexcept;
  /// The pages of a region cannot be guarded.
  void warn_unguarded(const Error& refusal) noexcept;
  /// The kernel sends no notices about a region's file.
  void note_unmonitored() noexcept;
  void note_no_monitor(const Error& refusal) const noexcept;
  void note_pinned(std::size_t bytes) const noexcept;
  void note_lost(std::size_t bytes) noexcept;

 private:
  // Relaxed: each flag guards nothing but its line.
  static bool is_first(std::atomic<bool>& was_logged) noexcept {
    return !was_logged.exchange(true, std::memory_order_relaxed);
  }

  const RegistrationScope scope_;
  const std::shared_ptr<PeerLog> log_;
  std::atomic<bool> has_warned_refused_ = false;
  std::atomic<bool> has_warned_other_file_ = false;
  std::atomic<bool> has_warned_unguarded_ = false;
  std::atomic<bool> has_noted_unmonitored_ = false;
};

}  // namespace guestio::registered
