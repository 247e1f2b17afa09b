// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

/// Counts heap allocations.
namespace guestio::bench {

/// Number of heap allocations of the process so far: malloc and related functions, operator new
/// included. Any thread.
[[nodiscard]] std::uint64_t allocations() noexcept;

}  // namespace guestio::bench
