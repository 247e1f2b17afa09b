// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdlib>
#include <thread>

/// Tests wait for events, never for a duration. In namespace guestio for the reason given in
/// testing/rounds.h.
namespace guestio {

/// The timeout of an expected event on a busy machine. Only a failing test waits that long.
/// GUESTIO_TEST_PATIENCE multiplies it (`./dev soak busy`).
inline std::chrono::milliseconds scaled_timeout(
    std::chrono::milliseconds usual = std::chrono::seconds(60)) {
  const char* const text = std::getenv("GUESTIO_TEST_PATIENCE");
  const long factor = text == nullptr ? 1 : std::strtol(text, nullptr, 10);
  return factor > 1 ? usual * factor : usual;
}

/// Polls until the condition holds or the timeout expires. Returns whether it holds.
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
