// SPDX-License-Identifier: MIT
#pragma once

#include <expected>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace guestio::app {

/// Reads a list of processors as taskset does: "2", "2,3", "0-3", "0-6:2" (every second one), and
/// any of those with commas between. The order stays, repetitions too. Errors: what is wrong, in
/// words that follow the option's name.
std::expected<std::vector<int>, std::string> parse_cpu_list(std::string_view text);

/// "0-3,8" of {0, 1, 2, 3, 8}. Requires: ascending.
std::string format_cpu_list(std::span<const int> cpus);

/// The processors that this process may run on, ascending.
std::vector<int> allowed_cpus();

/// Nothing, or which of `cpus` this process cannot run on and why.
std::expected<void, std::string> check_cpus(std::span<const int> cpus);

}  // namespace guestio::app
