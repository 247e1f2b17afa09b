// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

/// Programs of random operations on guest memory, run on the library and on a MemoryModel.
namespace guestio::mem::test {

/// Returns a number below `limit`. Requires: limit > 0. A seeded generator, or the bytes of a
/// fuzzer.
using Choose = std::function<std::uint64_t(std::uint64_t limit)>;

/// Builds a random memory (regions, holes, bitmaps, protected pages, read-only and unmapped parts,
/// views, a dirty log), runs a number of operations on it, and compares results, errors and every
/// byte after each. Returns the first difference.
[[nodiscard]] std::optional<std::string> run_memory_program(const Choose& choose, int operations);

}  // namespace guestio::mem::test
