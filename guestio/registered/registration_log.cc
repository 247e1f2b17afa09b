// SPDX-License-Identifier: MIT
#include "guestio/registered/registration_log.h"

#include <cerrno>

#include "guestio/base/log.h"
#include "guestio/uring/setup_hint.h"

namespace guestio::registered {

void RegistrationLog::warn_refused(const Error& refusal) noexcept {
  if (!is_first(has_warned_refused_)) return;
  const bool is_short = refusal.kind == ErrorKind::kHost && refusal.host_errno == ENOMEM;
  log::warning(
      "{}: guest memory stays unregistered, at a cost in speed only: {} ({}, use shared memory in "
      "few regions, give many disks more --threads, or choose --fixed-buffers off)",
      log_->name, refusal.to_string(),
      is_short ? uring::memlock_limit_hint() : "raise the memory-lock limit");
}

/// A FUSE server or a disk may stall on a page, and with it the thread that pins and the end of the
/// connection.
void RegistrationLog::warn_other_file() noexcept {
  if (scope_ == RegistrationScope::kResidentOnly) return;
  if (!is_first(has_warned_other_file_)) return;
  log::warning(
      "{}: guest memory stays unregistered, at a cost in speed only: it is not in a memory file "
      "(use memory-backend-memfd, or a file of tmpfs or hugetlbfs)",
      log_->name);
}

void RegistrationLog::warn_unguarded(const Error& refusal) noexcept {
  if (!is_first(has_warned_unguarded_)) return;
  if (scope_ == RegistrationScope::kResidentOnly) {
    log::debug("{}: guest memory stays unregistered: {}", log_->name, refusal.to_string());
    return;
  }
  log::warning(
      "{}: guest memory is registered without a page guard: {} (a guest that releases memory while "
      "it runs would lose data: no balloon, no free page reporting, no virtio-mem)",
      log_->name, refusal.to_string());
}

void RegistrationLog::note_unmonitored() noexcept {
  if (!is_first(has_noted_unmonitored_)) return;
  log::info(
      "{}: guest memory's file is not monitored: memory that the guest releases while its disk is "
      "idle is unregistered later (raise fs.inotify.max_user_instances and max_user_watches, and "
      "let this user read the file)",
      log_->name);
}

void RegistrationLog::note_no_monitor(const Error& refusal) const noexcept {
  log::debug("{}: guest memory is not monitored: {}", log_->name, refusal.to_string());
}

void RegistrationLog::note_pinned(std::size_t bytes) const noexcept {
  log::debug("{}: guest memory pinned: {} KiB", log_->name, bytes >> 10U);
}

void RegistrationLog::note_lost(std::size_t bytes) noexcept {
  log::rate_limited_info(
      log_->connections,
      "{}: guest memory released: a region of {} KiB is unregistered, at a cost in "
      "speed only",
      log_->name, bytes >> 10U);
}

}  // namespace guestio::registered
