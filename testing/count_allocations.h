// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

/// Counts heap allocations by operator new, which this library replaces. Only for separate test
/// programs in builds without sanitizers, which replace operator new as well.
namespace guestio::testing {

/// Number of allocations by this thread.
[[nodiscard]] std::uint64_t allocations() noexcept;

}  // namespace guestio::testing
