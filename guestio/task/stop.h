// SPDX-License-Identifier: MIT
#pragma once

#include <type_traits>
#include <utility>

#include "guestio/task/intrusive_list.h"

/// Asking work to stop. A StopSource is owned by whoever decides; a StopToken is handed down to the
/// work; a StopListener is told. Nothing here allocates.
/// Threads: one. To stop work of another thread, post to that thread's loop.
namespace guestio::task {

class StopSource;

/// A cheap copyable reference to a StopSource, or to none: then nobody ever asks to stop.
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

/// Is told once when stop is requested. Destroying one that listens leaves no trace.
class StopListener : public ListNode<StopListener> {
 public:
  StopListener() noexcept = default;

  /// Returns false, and does nothing, when stop was requested before: on_stop() is not called then.
  [[nodiscard]] bool listen(StopToken token) noexcept;
  void stop_listening() noexcept { unlink(); }

 protected:
  ~StopListener() = default;

 private:
  friend class StopSource;
  /// Called from within request_stop(), no longer listening. May destroy this listener, other
  /// listeners, and the source.
  virtual void on_stop() noexcept = 0;
};

/// Requests stop, once and for good. The destructor checks that nobody listens.
class StopSource final : private StopListener {
 public:
  StopSource() noexcept = default;
  /// Also stops when `parent` does.
  explicit StopSource(StopToken parent) noexcept;
  ~StopSource();

  [[nodiscard]] StopToken token() noexcept { return StopToken(this); }
  [[nodiscard]] bool stop_requested() const noexcept { return requested_; }

  /// Tells all listeners, in the order in which they began to listen, before it returns. Further
  /// calls do nothing.
  void request_stop() noexcept;

 private:
  friend class StopListener;
  void on_stop() noexcept override { request_stop(); }

  IntrusiveList<StopListener> listeners_;
  bool requested_ = false;
};

/// A listener that calls a function: `StopCallback on_stop(token, [&] { loop.cancel(operation);
/// });` Calls it at once, from the constructor, when stop was requested before.
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
