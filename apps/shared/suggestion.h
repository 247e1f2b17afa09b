// SPDX-License-Identifier: MIT
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace guestio::app {

/// How many letters have to be inserted, deleted, replaced or exchanged with their neighbour to
/// make `b` of `a` (optimal string alignment).
[[nodiscard]] std::size_t edit_distance(std::string_view a, std::string_view b);

/// " (did you mean NAME?)", where NAME is the one of `names` that `wanted` most likely stands for;
/// empty when none is near enough. `prefix` is printed before NAME, as in "--".
[[nodiscard]] std::string suggest(std::string_view wanted, std::span<const std::string> names,
                                  std::string_view prefix = "");

}  // namespace guestio::app
