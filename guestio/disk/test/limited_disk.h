// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "guestio/disk/throttle_channel.h"
#include "testing/virtual_timer.h"

namespace guestio::disk::test {

using testing::VirtualTimer;

/// A request of one guest; it knows when the disk got it.
struct TestIo final : Io {
  TestIo(IoKind its_kind, std::uint64_t its_length) {
    kind = its_kind;
    length = its_length;
  }
  void on_done(Result<> result) noexcept override {
    EXPECT_TRUE(result);
    ++completions;
    if (then) then();
  }

  VirtualTimer::Time arrived;
  VirtualTimer::Time started;
  unsigned starts = 0;
  unsigned completions = 0;
  std::function<void()> then;
};

/// A disk that takes 20 µs for each request.
class Medium final : public Channel {
 public:
  explicit Medium(VirtualTimer& timer) : timer_(timer) {}

  void start(Io& io) noexcept override {
    auto& request = static_cast<TestIo&>(io);
    request.started = timer_.now();
    ++request.starts;
    ++operations;
    bytes += request.length;
    started.push_back(&request);
    if (log != nullptr) log->push_back(&request);
    serving_.spawn(serve(request));
  }

  std::uint64_t operations = 0;
  std::uint64_t bytes = 0;
  std::vector<TestIo*> started;         // in order
  std::vector<TestIo*>* log = nullptr;  // of several disks

 private:
  task::Task<> serve(TestIo& request) {
    const task::StopToken never;
    const std::chrono::microseconds latency(20);
    co_await timer_.sleep(latency, never);
    request.on_done({});
  }

  VirtualTimer& timer_;
  task::Scope serving_;
};

/// Sleeps that end late.
class LateTimer final : public task::Timer {
 public:
  explicit LateTimer(VirtualTimer& timer) : timer_(timer) {}
  task::Task<> sleep(std::chrono::nanoseconds duration, task::StopToken token) override {
    return timer_.sleep(duration + lateness, token);
  }
  std::chrono::nanoseconds lateness{0};

 private:
  VirtualTimer& timer_;
};

/// A disk of a group, and its guests with closed loops of requests.
class LimitedDisk {
 public:
  LimitedDisk(VirtualTimer& timer, std::shared_ptr<ThrottleGroup> group)
      : timer_(timer),
        medium(timer),
        late_timer(timer),
        channel(medium, late_timer, std::move(group)) {}
  LimitedDisk(const LimitedDisk&) = delete;
  LimitedDisk& operator=(const LimitedDisk&) = delete;
  ~LimitedDisk() {
    is_ended_ = true;
    channel.let_through();
    timer_.run_for(std::chrono::seconds(10));
    for (const TestIo& request : requests_) {
      EXPECT_EQ(request.starts, request.completions);
    }
  }

  TestIo& start(IoKind kind, std::uint64_t length = 4096) {
    return submit(requests_.emplace_back(kind, length));
  }
  /// Keeps `depth` requests in flight until the end.
  void keep(unsigned depth, IoKind kind, std::uint64_t length) {
    for (unsigned i = 0; i < depth; ++i) {
      TestIo& request = requests_.emplace_back(kind, length);
      request.then = [this, &request] {
        if (!is_ended_) submit(request);
      };
      submit(request);
    }
  }

 private:
  TestIo& submit(TestIo& request) {
    request.arrived = timer_.now();
    channel.start(request);
    return request;
  }

  VirtualTimer& timer_;
  std::deque<TestIo> requests_;  // never moved
  bool is_ended_ = false;

 public:
  Medium medium;
  LateTimer late_timer;
  ThrottleChannel channel;
};

}  // namespace guestio::disk::test
