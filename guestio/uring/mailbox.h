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

/// A queue of functions from any thread, run by one receiver thread. The receiver sleeps on
/// descriptor(), which becomes readable with the first message. Nothing ever reads the eventfd, so
/// the receiver must poll it edge-triggered.
class Mailbox {
 public:
  using Message = std::move_only_function<void()>;

  static Result<Mailbox> create() noexcept;
  Mailbox(Mailbox&& other) noexcept;  ///< Before the mailbox is shared.
  ~Mailbox();                         ///< Checks that every message has run.

  /// Any thread. Messages of one thread run in the order of their posts.
  void post(Message message);
  /// Any thread. Wakes the receiver without a message.
  void wake() noexcept;

  // Receiver only.
  [[nodiscard]] int descriptor() const noexcept { return event_.get(); }
  [[nodiscard]] bool has_messages() const noexcept {
    return has_messages_.load(std::memory_order_acquire);
  }
  /// Runs all messages received so far; later ones wait for the next call. Returns their number.
  std::size_t run_messages();

 private:
  explicit Mailbox(UniqueFd event) noexcept : event_(std::move(event)) {}

  UniqueFd event_;
  std::mutex mutex_;
  // protected by mutex_
  std::vector<Message> arrived_;
  // Mirrors !arrived_.empty(). Written under mutex_, read by has_messages() without it. A stale
  // read is harmless: the missed post has also signalled event_.
  std::atomic<bool> has_messages_ = false;
  // receiver only
  std::vector<Message> running_;
};

}  // namespace guestio::uring
