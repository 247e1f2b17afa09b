// SPDX-License-Identifier: MIT
#pragma once

#include <type_traits>
#include <utility>

#include "guestio/task/intrusive_list.h"

/// Cooperative cancellation. The StopSource requests it, a StopToken passes it down to the work, a
/// StopListener is notified. Nothing here allocates.
/// Threads: one. To stop work of another thread, post to that thread's loop.
namespace guestio::task {

class StopSource;

/// A cheap copyable reference to a StopSource. A default token has none and is never stopped.
/// Lifetime: the source outlives it.
class StopToken {
 public:
  constexpr StopToken() noexcept = default;

  [[nodiscard]] bool stop_requested() const noexcept;

 private:
  friend class StopListener;
  friend class StopSource;
  constexpr explicit StopToken(StopSource* source) noexcept : source_(source) {}

  StopSource* source_ = nullptr;
};

/// Notified once when stop is requested. The destructor unregisters it.
class StopListener : public ListNode<StopListener> {
 public:
  StopListener() noexcept = default;

  /// Returns false if stop was requested before; on_stop() is then never called.
  [[nodiscard]] bool listen(StopToken token) noexcept;
  void stop_listening() noexcept { unlink(); }

 protected:
  ~StopListener() = default;

 private:
  friend class StopSource;
  /// Called within request_stop(), after unregistering. May destroy this listener, other listeners
  /// and the source.
  virtual void on_stop() noexcept = 0;
};

/// Requests stop, once and for good. The destructor checks that there are no listeners.
class StopSource final : private StopListener {
 public:
  StopSource() noexcept = default;
  /// Stopped by `parent` as well.
  explicit StopSource(StopToken parent) noexcept;
  ~StopSource();

  [[nodiscard]] StopToken token() noexcept { return StopToken(this); }
  [[nodiscard]] bool stop_requested() const noexcept { return requested_; }

  /// Notifies all listeners, in the order of listen(), before it returns. Further calls are no-ops.
  void request_stop() noexcept;

 private:
  friend class StopListener;
  void on_stop() noexcept override { request_stop(); }

  IntrusiveList<StopListener> listeners_;
  bool requested_ = false;
};

/// Calls a function on stop: `StopCallback on_stop(token, [&] { loop.cancel(operation); });`. The
/// constructor calls it if stop was requested before.
template <typename Function>
  requires std::is_nothrow_move_constructible_v<Function>
class StopCallback final : private StopListener {
 public:
  StopCallback(StopToken token, Function function) noexcept : function_(std::move(function)) {
    if (!listen(token)) function_();
  }

 private:
  void on_stop() noexcept override { function_(); }

  Function function_;
};

inline bool StopToken::stop_requested() const noexcept {
  return source_ != nullptr && source_->stop_requested();
}

}  // namespace guestio::task
