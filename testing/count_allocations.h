// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

/// Counts what a program takes from the heap with operator new, which linking to this replaces. For
/// test programs of their own that no sanitizer builds: those replace it as well.
namespace guestio::testing {

/// How often this thread has done so.
[[nodiscard]] std::uint64_t allocations() noexcept;

}  // namespace guestio::testing
