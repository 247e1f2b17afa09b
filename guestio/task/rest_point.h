// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <vector>

#include "guestio/task/event.h"
#include "guestio/task/stop.h"

namespace guestio::task {

/// Quiesces a task between two of its steps, on request, and resumes it later.
///
///     the task: while (...) {                                the requester:
///                 if (point.is_requested()) {                     point.request();
///                   co_await point.rest();                     co_await point.reached(limit);
///                   continue;                                  ...
///                 }                                            point.resume();
///                 co_await next_step(point.token());
///               }
///               point.end();
///
/// Threads: one.
class RestPoint {
 public:
  RestPoint() = default;
  RestPoint(const RestPoint&) = delete;
  RestPoint& operator=(const RestPoint&) = delete;

  // Called by the task.

  [[nodiscard]] bool is_requested() const noexcept { return is_requested_; }
  /// Stopped by request(): ends the wait for a step that has not begun.
  [[nodiscard]] task::StopToken token() noexcept { return interrupts_.back()->token(); }
  [[nodiscard]] task::Event::Awaiter rest() noexcept {
    at_rest_.set();
    return may_resume_.wait();
  }
  /// The task has ended: it rests for good.
  void end() noexcept {
    has_ended_ = true;
    at_rest_.set();
  }

  // Called by the requester.

  void request() {
    is_requested_ = true;
    may_resume_.reset();
    interrupts_.back()->request_stop();
  }
  /// Completes when the task rests, or when `limit` is stopped.
  [[nodiscard]] task::Event::Awaiter reached(task::StopToken limit) noexcept {
    return at_rest_.wait(limit);
  }
  [[nodiscard]] bool is_reached() const noexcept { return at_rest_.is_set(); }
  /// Resumes a resting task, or withdraws a request.
  void resume() {
    is_requested_ = false;
    // A task that does not rest yet may still hold a token of the last source.
    if (at_rest_.is_set()) interrupts_.clear();
    interrupts_.push_back(std::make_unique<task::StopSource>());
    if (!has_ended_) at_rest_.reset();
    may_resume_.set();
  }

 private:
  std::vector<std::unique_ptr<task::StopSource>> interrupts_ = make_first();
  bool is_requested_ = false;
  bool has_ended_ = false;
  task::Event at_rest_;
  task::Event may_resume_;

  static std::vector<std::unique_ptr<task::StopSource>> make_first() {
    std::vector<std::unique_ptr<task::StopSource>> first;
    first.push_back(std::make_unique<task::StopSource>());
    return first;
  }
};

}  // namespace guestio::task
