// SPDX-License-Identifier: MIT
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace guestio::app {

/// The number of insertions, deletions, replacements and swaps of neighbouring letters between `a`
/// and `b` (optimal string alignment).
[[nodiscard]] std::size_t edit_distance(std::string_view a, std::string_view b);

/// Returns " (did you mean NAME?)" with the nearest of `names`, or an empty text without a near
/// one. `prefix` precedes NAME, as in "--".
[[nodiscard]] std::string suggest(std::string_view wanted, std::span<const std::string> names,
                                  std::string_view prefix = "");

}  // namespace guestio::app
