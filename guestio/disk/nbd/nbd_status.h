// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <utility>

#include "guestio/disk/disk.h"

namespace guestio::disk {

/// The state of a disk's links, with its log lines: one for a loss, one for a return, however many
/// connections are lost together and however many attempts fail.
///
/// Threads: any.
class NbdStatus {
 public:
  /// `name`: the subject of log lines.
  explicit NbdStatus(std::string name) : name_(std::move(name)) {}

  /// A connection is open. `replaces_lost`: on_lost() came before.
  void on_connected(bool replaces_lost);
  /// A connection is lost.
  void on_lost();
  /// A link serves no requests any more. `consequence` ends the log line; without a cause there is
  /// none.
  void on_away(const std::string& cause, const char* consequence);
  /// The link serves requests again.
  void on_back();
  /// The first attempt for a link has failed.
  void on_never_connected(const std::string& cause);
  /// A connection is closed by us.
  void on_closed();
  /// A lost link ends.
  void on_abandoned();
  /// An attempt has failed.
  void on_failed_attempt(const std::string& cause);
  /// The server is back with another disk. A cause is logged once in a row.
  void on_refused(const std::string& cause);

  /// Unflushed writes were sent again.
  void on_repeated(std::uint64_t writes);

  [[nodiscard]] DiskStatus get() const;

 private:
  using Clock = std::chrono::steady_clock;

  void count_away(const std::string& cause, const char* consequence);
  void count_back();

  const std::string name_;
  mutable std::mutex mutex_;
  // protected by mutex_
  std::uint64_t connections_ = 0;
  std::uint64_t reconnects_ = 0;
  std::uint64_t links_away_ = 0;
  bool is_loss_logged_ = false;
  Clock::time_point away_since_{};
  std::string detail_;
  std::string refused_;
};

}  // namespace guestio::disk
