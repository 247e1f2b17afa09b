// SPDX-License-Identifier: MIT
#include "guestio/task/scope.h"

#include <utility>

#include "guestio/base/check.h"

namespace guestio::task {

std::coroutine_handle<> detail::PromiseBase::finish(std::coroutine_handle<> self) noexcept {
  if (scope != nullptr) {
    ScopeTasks& owner = *scope;
    self.destroy();  // `this` with it
    return owner.task_ended();
  }
  if (continuation) return continuation;
  return std::noop_coroutine();
}

std::coroutine_handle<> detail::ScopeTasks::task_ended() noexcept {
  --running;
  if (running == 0 && joiner) return std::exchange(joiner, {});
  return std::noop_coroutine();
}

Scope::~Scope() { GUESTIO_CHECK(tasks_.running == 0, "no running tasks at the end of a scope"); }

void Scope::spawn(Task<> task) noexcept { std::move(task).start_in(tasks_); }

void Scope::JoinAwaiter::await_suspend(std::coroutine_handle<> joiner) noexcept {
  GUESTIO_CHECK(!tasks_.joiner, "one joiner of a scope at a time");
  tasks_.joiner = joiner;
  waiting_ = true;
}

}  // namespace guestio::task
