// SPDX-License-Identifier: MIT
#pragma once

#include <string_view>

/// Checks for bugs of ours. A failed check says what was expected and stops the process. Input from
/// a guest, a front-end, a server or a file is never checked with these: it gets an Error.
namespace guestio {

/// Prints one line and aborts. Signal-safe.
[[noreturn]] void check_failed(std::string_view condition, std::string_view expected,
                               std::string_view file, int line) noexcept;

}  // namespace guestio

/// Stops the process when `condition` does not hold; `expected` states the invariant in words.
/// Compiled into every build.
#define GUESTIO_CHECK(condition, expected)                                 \
  do {                                                                     \
    if (!(condition)) [[unlikely]]                                         \
      ::guestio::check_failed(#condition, (expected), __FILE__, __LINE__); \
  } while (false)
