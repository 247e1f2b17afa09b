// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdlib>
#include <thread>

/// How tests wait: for events, never for a time to pass. In the namespace that testing/rounds.h is
/// in, for its reason.
namespace guestio {

/// How long something may take that does come, on a machine that has other things to do. Only a
/// test that fails waits that long. GUESTIO_TEST_PATIENCE multiplies it (`./dev soak busy`).
inline std::chrono::milliseconds scaled_timeout(
    std::chrono::milliseconds usual = std::chrono::seconds(60)) {
  const char* const text = std::getenv("GUESTIO_TEST_PATIENCE");
  const long factor = text == nullptr ? 1 : std::strtol(text, nullptr, 10);
  return factor > 1 ? usual * factor : usual;
}

/// Looks again and again, until the condition holds or patience is at its end. Returns whether it
/// holds.
template <typename Condition>
[[nodiscard]] bool wait_until(Condition condition,
                              std::chrono::milliseconds usual = std::chrono::seconds(60)) {
  const auto end = std::chrono::steady_clock::now() + scaled_timeout(usual);
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= end) return condition();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

}  // namespace guestio
