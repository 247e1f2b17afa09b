// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

/// Counts what is taken from the heap.
namespace guestio::bench {

/// How often the process has asked for heap memory so far: malloc and its relatives, which is also
/// where operator new takes it from. Any thread.
[[nodiscard]] std::uint64_t allocations() noexcept;

}  // namespace guestio::bench
