// SPDX-License-Identifier: MIT
#pragma once

#include <string_view>

/// Assertions for bugs of ours. A failed check prints the expectation and aborts the process.
/// Invalid input of a guest, a front-end, a server or a file is an Error instead.
namespace guestio {

/// Prints one line and aborts. Signal-safe.
[[noreturn]] void check_failed(std::string_view condition, std::string_view expected,
                               std::string_view file, int line) noexcept;

}  // namespace guestio

/// Aborts unless `condition` holds. `expected` states the invariant. Compiled into every build.
#define GUESTIO_CHECK(condition, expected)                                 \
  do {                                                                     \
    if (!(condition)) [[unlikely]]                                         \
      ::guestio::check_failed(#condition, (expected), __FILE__, __LINE__); \
  } while (false)
