// SPDX-License-Identifier: MIT
#include "guestio/uring/blocking_call.h"

#include <system_error>

namespace guestio::uring {

bool BlockingCall::await_suspend(std::coroutine_handle<> waiting) noexcept {
  try {
    thread_ = std::thread([this, waiting] {
      result_ = function_();
      loop_.post([waiting] { waiting.resume(); });
    });
    return true;
  } catch (const std::system_error& error) {
    result_ = -error.code().value();
    return false;
  }
}

std::int32_t BlockingCall::await_resume() {
  // It has nothing left to do, but may not be out of post() yet.
  if (thread_.joinable()) thread_.join();
  return result_;
}

}  // namespace guestio::uring
