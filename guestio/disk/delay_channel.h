// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <functional>
#include <memory>

#include "guestio/disk/disk.h"
#include "guestio/task/scope.h"
#include "guestio/task/timer.h"

namespace guestio::disk {

/// A disk that begins each request later than it was asked to: as long as somebody says, so that
/// requests overtake one another. For trying out what stands on a disk.
///
/// Threads: the timer's. Lifetime: as Channel; the timer outlives it.
class DelayChannel final : public Channel {
 public:
  /// How long this request waits; 0: not at all.
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
    auto pause = timer_.sleep(delay, {});
    co_await std::move(pause);
    below_->start(io);
  }

  std::unique_ptr<Channel> below_;
  task::Timer& timer_;
  Choose choose_;
  task::Scope waiting_;
};

}  // namespace guestio::disk
