// SPDX-License-Identifier: MIT
#pragma once

#include <poll.h>

#include <cstdint>
#include <functional>
#include <utility>

#include "guestio/uring/operation.h"

/// Operations for the tests of this room.
namespace guestio::uring {

/// Prepares with one function and completes with another.
class TestOperation final : public Operation {
 public:
  using Prepare = std::function<void(io_uring_sqe&)>;
  using Complete = std::function<void(std::int32_t result, std::uint32_t flags)>;

  explicit TestOperation(Prepare prepare, Complete complete = {})
      : prepare_(std::move(prepare)), complete_(std::move(complete)) {}

  std::uint64_t completions = 0;
  std::int32_t last_result = 0;

 private:
  void prepare(io_uring_sqe& entry) noexcept override { prepare_(entry); }
  void complete(std::int32_t result, std::uint32_t flags) noexcept override {
    ++completions;
    last_result = result;
    if (complete_) complete_(result, flags);
  }

  Prepare prepare_;
  Complete complete_;
};

inline TestOperation::Prepare do_nothing() {
  return [](io_uring_sqe& entry) { ::io_uring_prep_nop(&entry); };
}

inline TestOperation::Prepare poll_once(int fd) {
  return [fd](io_uring_sqe& entry) { ::io_uring_prep_poll_add(&entry, fd, POLLIN); };
}

}  // namespace guestio::uring
