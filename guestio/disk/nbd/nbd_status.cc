// SPDX-License-Identifier: MIT
#include "guestio/disk/nbd/nbd_status.h"

#include "guestio/base/log.h"

namespace guestio::disk {

void NbdStatus::on_connected(bool replaces_lost) {
  const std::lock_guard lock(mutex_);
  ++connections_;
  if (replaces_lost) ++reconnects_;
}

void NbdStatus::on_lost() {
  const std::lock_guard lock(mutex_);
  --connections_;
}

void NbdStatus::on_away(const std::string& cause, const char* consequence) {
  const std::lock_guard lock(mutex_);
  count_away(cause, consequence);
}

void NbdStatus::on_back() {
  const std::lock_guard lock(mutex_);
  refused_.clear();
  count_back();
}

void NbdStatus::on_never_connected(const std::string& cause) {
  const std::lock_guard lock(mutex_);
  count_away(cause, "reconnects until it is back");
}

void NbdStatus::on_closed() {
  const std::lock_guard lock(mutex_);
  --connections_;
}

void NbdStatus::on_abandoned() {
  const std::lock_guard lock(mutex_);
  if (--links_away_ == 0) is_loss_logged_ = false;
}

void NbdStatus::on_failed_attempt(const std::string& cause) {
  const std::lock_guard lock(mutex_);
  detail_ = cause;
}

void NbdStatus::on_refused(const std::string& cause) {
  const std::lock_guard lock(mutex_);
  detail_ = cause;
  if (refused_ == cause) return;
  refused_ = cause;
  log::error("{}: NBD server is back with another disk: {}; restore the export, requests wait",
             name_, cause);
}

void NbdStatus::on_repeated(std::uint64_t writes) {
  log::info("{}: {} writes since the last flush were sent again", name_, writes);
}

void NbdStatus::count_away(const std::string& cause, const char* consequence) {
  if (!cause.empty()) detail_ = cause;
  if (links_away_++ == 0) away_since_ = Clock::now();
  if (cause.empty() || std::exchange(is_loss_logged_, true)) return;
  log::warning("{}: NBD server lost: {}; {}", name_, cause, consequence);
}

void NbdStatus::count_back() {
  if (--links_away_ != 0 || !std::exchange(is_loss_logged_, false)) return;
  const std::chrono::duration<double> away = Clock::now() - away_since_;
  log::info("{}: NBD server is back after {:.3f} s", name_, away.count());
}

DiskStatus NbdStatus::get() const {
  const std::lock_guard lock(mutex_);
  return {.backend = "nbd",
          .is_available = links_away_ == 0,
          .connections = connections_,
          .reconnects = reconnects_,
          .detail = detail_};
}

}  // namespace guestio::disk
