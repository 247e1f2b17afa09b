// SPDX-License-Identifier: MIT
#pragma once

#include <coroutine>
#include <cstddef>
#include <exception>
#include <optional>
#include <type_traits>
#include <utility>

#include "guestio/base/check.h"
#include "guestio/task/frame_pool.h"

/// Task: the coroutine type of this library.
///
/// Rules for coroutines:
/// 1. A coroutine is a function or member function, never a lambda with captures: the frame refers
///    to the lambda object and does not copy its captures.
/// 2. Reference parameters outlive the task. Value parameters are moved into the frame.
/// 3. Await a call directly: `co_await f(a, b)`, `const auto r = co_await f(a)`. g++ 12 destroys
///    three kinds of temporaries twice if they stand inside a co_await expression. Give such an
///    argument a name first, and await the call directly with it.
///
///        co_await f(Options{…});              // a braced temporary of aggregate type
///        co_await f([x] { … });               // a capturing lambda as a temporary
///        co_await f(c ? String("a") : b);     // ?: with a temporary of class type
///
///        const Options options{…};            // instead
///        co_await f(options);
///
/// A default argument counts as well: `Task<> f(const Options& options = {})` needs a named one. Of
/// the spellings tried with g++ 12.2, at -O0 and at -O1, only these are miscompiled. A temporary
/// with a trivial destructor does no harm.
namespace guestio::task {

template <typename T = void>
class Task;

namespace detail {

/// The running tasks of a Scope, and who awaits their end.
struct ScopeTasks {
  /// Returns the coroutine to resume next.
  std::coroutine_handle<> task_ended() noexcept;

  std::size_t running = 0;
  std::coroutine_handle<> joiner;
};

class PromiseBase {
 public:
  static void* operator new(std::size_t size) { return FramePool::allocate(size); }
  static void operator delete(void* frame, std::size_t size) noexcept {
    FramePool::release(frame, size);
  }

  struct FinalAwaiter {
    bool await_ready() noexcept { return false; }
    template <typename Promise>
    std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> finished) noexcept {
      return finished.promise().finish(finished);
    }
    void await_resume() noexcept {}
  };

  std::suspend_always initial_suspend() noexcept { return {}; }
  FinalAwaiter final_suspend() noexcept { return {}; }
  // Our code throws no exceptions: one here is a bug.
  [[noreturn]] void unhandled_exception() noexcept { std::terminate(); }

  std::coroutine_handle<> finish(std::coroutine_handle<> self) noexcept;

  // What to resume at the end of the coroutine. Neither is set while its starter is still inside
  // resume(): the starter checks done() itself.
  std::coroutine_handle<> continuation;
  ScopeTasks* scope = nullptr;
  bool started = false;
};

template <typename T>
class Promise final : public PromiseBase {
 public:
  Task<T> get_return_object() noexcept;
  template <typename Value = T>
    requires std::is_constructible_v<T, Value&&>
  void return_value(Value&& value) noexcept {
    result_.emplace(std::forward<Value>(value));
  }
  T take_result() noexcept { return std::move(*result_); }

 private:
  std::optional<T> result_;
};

template <>
class Promise<void> final : public PromiseBase {
 public:
  Task<void> get_return_object() noexcept;
  void return_void() noexcept {}
  void take_result() noexcept {}
};

}  // namespace detail

/// A coroutine with a result of type T.
///
/// 1. Lazy: it starts when it is awaited, or spawned into a Scope.
/// 2. Awaited at most once, as an rvalue: `co_await read_header(disk)` or `co_await std::move(t)`.
/// 3. Its end resumes the awaiting coroutine directly. A task that never suspends uses no stack for
///    that, so a loop may await any number of tasks.
/// 4. An exception out of the coroutine terminates the process.
///
/// Lifetime: owns the frame. Destroying a suspended task destroys its frame with all locals. The
/// awaited object says whether that is allowed (a WaitQueue: yes; a kernel operation: never).
/// Threads: one. A task is created, resumed and destroyed on the thread that starts it.
template <typename T>
class [[nodiscard]] Task {
 public:
  using promise_type = detail::Promise<T>;

  Task() noexcept = default;
  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, {})) {}
  Task& operator=(Task&& other) noexcept {
    if (this != &other) {
      destroy();
      handle_ = std::exchange(other.handle_, {});
    }
    return *this;
  }
  ~Task() { destroy(); }

  /// False after default construction or a move.
  [[nodiscard]] explicit operator bool() const noexcept { return static_cast<bool>(handle_); }

  class Awaiter {
   public:
    explicit Awaiter(std::coroutine_handle<promise_type> task) noexcept : task_(task) {}

    bool await_ready() const noexcept { return false; }

    // Not a symmetric transfer: g++ makes it a tail call only from -O2 on, so below -O2 a loop over
    // tasks without suspension would exhaust the stack.
    bool await_suspend(std::coroutine_handle<> awaiting) const noexcept {
      GUESTIO_CHECK(!std::exchange(task_.promise().started, true), "a task to be awaited once");
      task_.resume();
      if (task_.done()) return false;
      task_.promise().continuation = awaiting;
      return true;
    }

    T await_resume() const noexcept { return task_.promise().take_result(); }

   private:
    std::coroutine_handle<promise_type> task_;
  };

  /// Starts the task on the calling thread and awaits its result.
  Awaiter operator co_await() && noexcept {
    GUESTIO_CHECK(handle_, "a task that holds a coroutine");
    return Awaiter(handle_);
  }

  /// For Scope::spawn(): starts the task as one of `scope`, which frees the frame at its end.
  void start_in(detail::ScopeTasks& scope) && noexcept
    requires std::is_void_v<T>;

 private:
  friend detail::Promise<T>;

  explicit Task(std::coroutine_handle<promise_type> handle) noexcept : handle_(handle) {}

  void destroy() noexcept {
    if (handle_) std::exchange(handle_, {}).destroy();
  }

  std::coroutine_handle<promise_type> handle_;
};

template <typename T>
void Task<T>::start_in(detail::ScopeTasks& scope) && noexcept
  requires std::is_void_v<T>
{
  GUESTIO_CHECK(handle_, "a task that holds a coroutine");
  const auto coroutine = std::exchange(handle_, {});
  GUESTIO_CHECK(!std::exchange(coroutine.promise().started, true), "a task to be started once");
  coroutine.promise().scope = &scope;
  ++scope.running;
  coroutine.resume();
}

namespace detail {

template <typename T>
Task<T> Promise<T>::get_return_object() noexcept {
  return Task<T>(std::coroutine_handle<Promise>::from_promise(*this));
}

inline Task<void> Promise<void>::get_return_object() noexcept {
  return Task<void>(std::coroutine_handle<Promise>::from_promise(*this));
}

}  // namespace detail
}  // namespace guestio::task
