// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <memory>

#include "guestio/base/error.h"

/// One sleeping thread of the process for all time limits of RBD disks.
namespace guestio::disk {

class Monitored {
 public:
  using Clock = std::chrono::steady_clock;

  virtual ~Monitored() = default;
  /// Called about every tick_interval(), on the monitor's thread; never blocks.
  virtual void tick(Clock::time_point now) = 0;
  [[nodiscard]] virtual std::chrono::milliseconds tick_interval() const noexcept = 0;
};

/// Monitors the object for as long as it lives. Any thread. Errors: host (no thread).
Result<> monitor(std::weak_ptr<Monitored> object);

}  // namespace guestio::disk
