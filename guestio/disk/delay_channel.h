// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <functional>
#include <memory>

#include "guestio/disk/disk.h"
#include "guestio/task/scope.h"
#include "guestio/task/timer.h"

namespace guestio::disk {

/// Delays the start of requests on a channel, so that they overtake one another.
///
/// Threads: the timer's. Lifetime: as Channel; the timer outlives it.
class DelayChannel final : public Channel {
 public:
  /// The delay of one request; 0: none.
  using Choose = std::move_only_function<std::chrono::nanoseconds(const Io& io)>;

  DelayChannel(std::unique_ptr<Channel> below, task::Timer& timer, Choose choose) noexcept
      : below_(std::move(below)), timer_(timer), choose_(std::move(choose)) {}

  void start(Io& io) noexcept override {
    const std::chrono::nanoseconds delay = choose_(io);
    if (delay <= std::chrono::nanoseconds(0)) return below_->start(io);
    waiting_.spawn(start_later(io, delay));
  }

 private:
  task::Task<> start_later(Io& io, std::chrono::nanoseconds delay) {
    const task::StopToken never;
    co_await timer_.sleep(delay, never);
    below_->start(io);
  }

  std::unique_ptr<Channel> below_;
  task::Timer& timer_;
  Choose choose_;
  task::Scope waiting_;
};

}  // namespace guestio::disk
