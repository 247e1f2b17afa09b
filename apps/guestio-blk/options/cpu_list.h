// SPDX-License-Identifier: MIT
#pragma once

#include <expected>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace guestio::app {

/// Parses a processor list in the syntax of taskset: "2", "2,3", "0-3", "0-6:2" (every second
/// processor), and combinations with commas. Keeps order and repetitions. Errors: a text that
/// follows the name of the option.
std::expected<std::vector<int>, std::string> parse_cpu_list(std::string_view text);

/// "0-3,8" of {0, 1, 2, 3, 8}. Requires: ascending.
std::string format_cpu_list(std::span<const int> cpus);

/// The affinity of this process, ascending.
std::vector<int> allowed_cpus();

/// Checks `cpus` against allowed_cpus(). Errors: the first excluded processor and the cause.
std::expected<void, std::string> check_cpus(std::span<const int> cpus);

}  // namespace guestio::app
