// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"

namespace guestio::uring {

/// Functions from any thread, to be run by one. The receiver sleeps on descriptor(), which becomes
/// readable with the first function that arrives; nobody ever reads it, so the receiver must poll
/// it edge-triggered.
class Mailbox {
 public:
  using Message = std::move_only_function<void()>;

  static Result<Mailbox> create() noexcept;
  Mailbox(Mailbox&& other) noexcept;  ///< Before it is shared only.
  ~Mailbox();                         ///< Checks that every message has run.

  /// Any thread. Messages of one thread run in the order in which they were posted.
  void post(Message message);
  /// Any thread. Wakes the receiver without a message.
  void wake() noexcept;

  // The receiver's.
  [[nodiscard]] int descriptor() const noexcept { return event_.get(); }
  [[nodiscard]] bool has_messages() const noexcept {
    return has_messages_.load(std::memory_order_acquire);
  }
  /// Runs what has arrived; what arrives meanwhile is for the next call. Returns how many ran.
  std::size_t run_messages();

 private:
  explicit Mailbox(UniqueFd event) noexcept : event_(std::move(event)) {}

  UniqueFd event_;
  std::mutex mutex_;
  // protected by mutex_
  std::vector<Message> arrived_;
  // Mirrors !arrived_.empty(). Written under mutex_; has_messages() reads it without, and needs no
  // more than to see it at some time after the post: a post that it misses has also signalled
  // event_.
  std::atomic<bool> has_messages_ = false;
  // the receiver's
  std::vector<Message> running_;
};

}  // namespace guestio::uring
