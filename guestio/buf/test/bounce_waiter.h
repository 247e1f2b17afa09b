// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "guestio/buf/bounce_buffer_tracker.h"
#include "guestio/task/scope.h"
#include "guestio/task/task.h"

/// Coroutines waiting for bounce memory, for tests.
namespace guestio::buf::test {

/// Acquires memory from an account and keeps it.
class BounceWaiter {
 public:
  /// Appends its name to `served` once served.
  BounceWaiter(int name, std::vector<int>& served) : name_(name), served_(served) {}

  task::Task<> acquire(BounceAccount& account, std::size_t size, AcquireOptions options) {
    auto granted = co_await account.acquire(size, options);
    if (granted) served_.push_back(name_);
    result_.emplace(std::move(granted));
  }
  /// Starts in `scope`. Returns itself.
  BounceWaiter& start(task::Scope& scope, BounceAccount& account, std::size_t size,
                      const AcquireOptions& options = {}) {
    scope.spawn(acquire(account, size, options));
    return *this;
  }

  [[nodiscard]] int name() const noexcept { return name_; }
  [[nodiscard]] bool is_waiting() const noexcept { return !result_.has_value(); }
  [[nodiscard]] bool is_holding() const noexcept { return has_buffer() && (*result_)->size() != 0; }
  /// Released its buffer, or got none.
  [[nodiscard]] bool is_over() const noexcept { return !is_waiting() && !is_holding(); }
  [[nodiscard]] bool has_buffer() const noexcept { return result_ && result_->has_value(); }
  [[nodiscard]] const Error& error() const { return result_->error(); }
  [[nodiscard]] TrackedBounceBuffer& buffer() { return **result_; }
  void release() {
    if (has_buffer()) **result_ = TrackedBounceBuffer();
  }

 private:
  int name_;
  std::vector<int>& served_;
  std::optional<Result<TrackedBounceBuffer>> result_;
};

}  // namespace guestio::buf::test
