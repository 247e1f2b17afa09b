// SPDX-License-Identifier: MIT
#include "guestio/task/scope.h"

#include <utility>

#include "guestio/base/check.h"

namespace guestio::task {

std::coroutine_handle<> detail::PromiseBase::finish(std::coroutine_handle<> self) noexcept {
  if (scope != nullptr) {
    Scope& owner = *scope;
    self.destroy();  // `this` with it
    return owner.task_ended();
  }
  if (continuation) return continuation;
  return std::noop_coroutine();
}

Scope::~Scope() { GUESTIO_CHECK(running_ == 0, "no running tasks at the end of a scope"); }

void Scope::spawn(Task<> task) noexcept {
  GUESTIO_CHECK(task.handle_, "a task that holds a coroutine");
  const auto coroutine = std::exchange(task.handle_, {});
  GUESTIO_CHECK(!std::exchange(coroutine.promise().started, true), "a task to be started once");
  coroutine.promise().scope = this;
  ++running_;
  coroutine.resume();
}

std::coroutine_handle<> Scope::task_ended() noexcept {
  --running_;
  if (running_ == 0 && joiner_) return std::exchange(joiner_, {});
  return std::noop_coroutine();
}

void Scope::JoinAwaiter::await_suspend(std::coroutine_handle<> joiner) noexcept {
  GUESTIO_CHECK(!scope_.joiner_, "one joiner of a scope at a time");
  scope_.joiner_ = joiner;
  waiting_ = true;
}

}  // namespace guestio::task
