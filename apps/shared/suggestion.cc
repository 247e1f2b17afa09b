// SPDX-License-Identifier: MIT
#include "apps/shared/suggestion.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

namespace guestio::app {

namespace {

/// Limits the cost, the product of both lengths; no option has a longer name.
constexpr std::size_t kMaxNameLength = 64;

}  // namespace

std::size_t edit_distance(std::string_view a, std::string_view b) {
  // Three rows of the table: distances of a[0, i) to each b[0, j).
  std::array<std::vector<std::size_t>, 3> rows;
  for (auto& row : rows) row.resize(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) rows[0][j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    auto& row = rows[i % 3];
    const auto& above = rows[(i - 1) % 3];
    const auto& two_above = rows[(i + 1) % 3];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({above[j] + 1, row[j - 1] + 1,
                         above[j - 1] + (a[i - 1] == b[j - 1] ? std::size_t{0} : std::size_t{1})});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], two_above[j - 2] + 1);
      }
    }
  }
  return rows[a.size() % 3][b.size()];
}

std::string suggest(std::string_view wanted, std::span<const std::string> names,
                    std::string_view prefix) {
  if (wanted.empty() || wanted.size() > kMaxNameLength) return {};
  const std::size_t limit = std::clamp<std::size_t>(wanted.size() / 3, 1, 3);
  const std::string* best = nullptr;
  std::size_t smallest = limit + 1;
  for (const std::string& name : names) {
    // A prefix counts as one wrong letter.
    const bool is_beginning = wanted.size() >= 3 && name.starts_with(wanted);
    const std::size_t distance = is_beginning ? 1 : edit_distance(wanted, name);
    if (distance >= smallest) continue;
    smallest = distance;
    best = &name;
  }
  return best == nullptr ? std::string() : fmt::format(" (did you mean {}{}?)", prefix, *best);
}

}  // namespace guestio::app
