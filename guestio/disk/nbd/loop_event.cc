// SPDX-License-Identifier: MIT
#include "guestio/disk/nbd/loop_event.h"

#include <liburing.h>

#include <cerrno>
#include <utility>

namespace guestio::disk {

class LoopEvent::State final : public uring::Operation {
 public:
  explicit State(Callback callback) : callback_(std::move(callback)) {}

  io_uring_sqe entry{};
  __kernel_timespec duration{};

  /// The owner forgets this object.
  void drop(uring::Loop& loop) noexcept {
    is_dropped_ = true;
    if (in_flight()) {
      loop.cancel(*this);
    } else if (!is_calling_) {
      delete this;
    }
  }

 private:
  void prepare(io_uring_sqe& prepared) noexcept override { prepared = entry; }
  void complete(std::int32_t result, std::uint32_t /*flags*/) noexcept override {
    if (!is_dropped_) {
      is_calling_ = true;
      callback_(result == -ETIME ? 0 : result);
      is_calling_ = false;
    }
    if (is_dropped_ && !in_flight()) delete this;
  }

  Callback callback_;
  bool is_dropped_ = false;
  bool is_calling_ = false;
};

LoopEvent::LoopEvent(uring::Loop& loop, Callback callback)
    : loop_(loop), state_(new State(std::move(callback))) {}

LoopEvent::~LoopEvent() { state_->drop(loop_); }

void LoopEvent::poll(int fd, unsigned events) {
  state_->entry = {};
  ::io_uring_prep_poll_add(&state_->entry, fd, events);
  loop_.start(*state_);
}

void LoopEvent::sleep(std::chrono::nanoseconds duration) {
  state_->duration = {.tv_sec = duration.count() / 1'000'000'000,
                      .tv_nsec = duration.count() % 1'000'000'000};
  state_->entry = {};
  ::io_uring_prep_timeout(&state_->entry, &state_->duration, 0, 0);
  loop_.start(*state_);
}

bool LoopEvent::is_waiting() const noexcept { return state_->in_flight(); }

}  // namespace guestio::disk
