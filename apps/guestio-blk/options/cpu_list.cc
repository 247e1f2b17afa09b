// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/options/cpu_list.h"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <optional>

namespace guestio::app {

namespace {

// An upper bound for any machine.
constexpr int kMaxCpus = 65536;

/// Consumes a number at the front of `text`.
std::optional<int> consume_number(std::string_view& text) {
  int number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || number < 0 || number >= kMaxCpus) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return number;
}

bool consume(std::string_view& text, char wanted) {
  if (!text.starts_with(wanted)) return false;
  text.remove_prefix(1);
  return true;
}

/// "2", "0-3" or "0-6:2".
bool read_range(std::string_view text, std::vector<int>& cpus) {
  const auto first = consume_number(text);
  if (!first) return false;
  auto last = first;
  std::optional<int> stride = 1;
  if (consume(text, '-')) {
    last = consume_number(text);
    if (consume(text, ':')) stride = consume_number(text);
  }
  if (!last || *last < *first || !stride || *stride == 0 || !text.empty()) return false;
  for (int cpu = *first; cpu <= *last; cpu += *stride) cpus.push_back(cpu);
  return true;
}

}  // namespace

std::expected<std::vector<int>, std::string> parse_cpu_list(std::string_view text) {
  std::vector<int> cpus;
  while (true) {
    const auto comma = std::min(text.find(','), text.size());
    if (!read_range(text.substr(0, comma), cpus) || cpus.size() > kMaxCpus) {
      return std::unexpected("takes processors, such as 2,3 or 0-3 or 0-6:2");
    }
    if (comma == text.size()) return cpus;
    text.remove_prefix(comma + 1);
  }
}

std::string format_cpu_list(std::span<const int> cpus) {
  std::string text;
  for (std::size_t i = 0; i < cpus.size(); ++i) {
    std::size_t last = i;
    while (last + 1 < cpus.size() && cpus[last + 1] == cpus[last] + 1) ++last;
    text += fmt::format("{}{}", text.empty() ? "" : ",", cpus[i]);
    if (last != i) text += fmt::format("-{}", cpus[last]);
    i = last;
  }
  return text;
}

std::vector<int> allowed_cpus() {
  const std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> set(
      CPU_ALLOC(kMaxCpus), [](cpu_set_t* to_free) { CPU_FREE(to_free); });
  const std::size_t size = CPU_ALLOC_SIZE(kMaxCpus);
  std::vector<int> cpus;
  if (::sched_getaffinity(0, size, set.get()) != 0) return cpus;
  for (int cpu = 0; cpu < kMaxCpus; ++cpu) {
    if (CPU_ISSET_S(static_cast<std::size_t>(cpu), size, set.get())) cpus.push_back(cpu);
  }
  return cpus;
}

std::expected<void, std::string> check_cpus(std::span<const int> cpus) {
  const std::vector<int> allowed = allowed_cpus();
  if (allowed.empty()) return {};  // affinity is unknown
  const auto bad = std::ranges::find_if(
      cpus, [&](int cpu) { return !std::ranges::binary_search(allowed, cpu); });
  if (bad == cpus.end()) return {};
  if (*bad >= ::sysconf(_SC_NPROCESSORS_CONF)) {
    return std::unexpected(fmt::format("names processor {}, which does not exist: choose from {}",
                                       *bad, format_cpu_list(allowed)));
  }
  return std::unexpected(fmt::format(
      "names processor {}, which this process may not run on: choose from {}, or change what "
      "taskset, the cpuset or AllowedCPUs= allow",
      *bad, format_cpu_list(allowed)));
}

}  // namespace guestio::app
