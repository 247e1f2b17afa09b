// SPDX-License-Identifier: MIT
#pragma once

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "guestio/base/error.h"
#include "guestio/base/thread.h"
#include "guestio/base/unique_fd.h"

namespace guestio::app {

/// A call of unbounded duration (a slow device or server) on a thread of its own. The destructor
/// does not wait: the call continues, and its result is destroyed on that thread or with the
/// process.
///
///     auto opening = Background<OpenedImage>::start([options] { return open_image(options); });
///     ... poll for opening->fd() to be readable ...
///     OpenedImage opened = opening->take();
///
/// Threads: the function runs on its own thread, with signals blocked. All else is for the owner.
template <typename T>
class Background {
 public:
  /// Errors: those of start_thread(); host (no descriptor left).
  static Result<Background> start(std::move_only_function<T()> function) {
    auto state = std::make_shared<State>();
    state->done = UniqueFd(::eventfd(0, EFD_CLOEXEC));
    if (!state->done) return fail_host("make an event descriptor");
    auto thread = start_thread("background", [state, function = std::move(function)]() mutable {
      std::optional<T> result(function());
      state->finish(std::move(result));
    });
    if (!thread) return fail(thread.error());
    thread->detach();
    return Background(std::move(state));
  }

  Background(Background&&) noexcept = default;
  Background& operator=(Background&&) = delete;
  ~Background() {
    if (state_) state_->abandon();
  }

  /// Readable after the call.
  [[nodiscard]] int fd() const noexcept { return state_->done.get(); }
  /// Blocks. Returns false at `deadline`.
  [[nodiscard]] bool wait_until(std::chrono::steady_clock::time_point deadline) const {
    using std::chrono::milliseconds;
    while (true) {
      const auto left =
          std::chrono::ceil<milliseconds>(deadline - std::chrono::steady_clock::now()).count();
      pollfd done{.fd = fd(), .events = POLLIN, .revents = 0};
      constexpr std::int64_t kLongest = 1000;
      const int ready =
          ::poll(&done, 1, static_cast<int>(std::clamp<std::int64_t>(left, 0, kLongest)));
      if (ready > 0) return true;
      if (left <= 0) return false;
    }
  }
  /// Takes the result. Once. Requires: the call has returned.
  T take() {
    const std::lock_guard lock(state_->mutex);
    return std::move(*state_->result);
  }

 private:
  struct State {
    UniqueFd done;
    std::mutex mutex;
    // protected by mutex
    std::optional<T> result;
    bool is_abandoned = false;

    void finish(std::optional<T> made) {
      {
        const std::lock_guard lock(mutex);
        if (is_abandoned) return;
        result.emplace(std::move(*made));
      }
      const std::uint64_t one = 1;
      (void)!::write(done.get(), &one, sizeof one);
    }
    void abandon() {
      const std::lock_guard lock(mutex);
      is_abandoned = true;
      result.reset();
    }
  };

  explicit Background(std::shared_ptr<State> state) noexcept : state_(std::move(state)) {}

  std::shared_ptr<State> state_;
};

}  // namespace guestio::app
