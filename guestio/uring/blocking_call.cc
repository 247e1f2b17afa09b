// SPDX-License-Identifier: MIT
#include "guestio/uring/blocking_call.h"

#include <utility>

#include "guestio/base/thread.h"

namespace guestio::uring {

bool BlockingCall::await_suspend(std::coroutine_handle<> waiting) noexcept {
  // The loop's thread resumes the coroutine, after this function has returned.
  auto thread = start_thread("guestio-call", [this, waiting] {
    result_ = function_();
    loop_.post([waiting] { waiting.resume(); });
  });
  if (!thread) {
    result_ = -thread.error().host_errno;
    return false;
  }
  thread_ = std::move(*thread);
  return true;
}

std::int32_t BlockingCall::await_resume() {
  // The function is done; the thread may still be inside post().
  if (thread_.joinable()) thread_.join();
  return result_;
}

}  // namespace guestio::uring
