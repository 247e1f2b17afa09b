// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/options/process_settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "apps/guestio-blk/options/cpu_list.h"
#include "apps/guestio-blk/options/diagnostics.h"
#include "apps/guestio-blk/options/setting.h"

namespace guestio::app {

namespace {

template <typename Number>
Diagnostic set_number(std::optional<Number>& to, std::string_view value, Number min, Number max) {
  Number number{};
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error != std::errc() || end != value.data() + value.size() || number < min || number > max) {
    return refuse(fmt::format("takes {} to {}", min, max));
  }
  to = number;
  return {};
}

Diagnostic set_threads(ProcessOptions& options, std::string_view value) {
  return set_number(options.threads, value, std::size_t{1}, kMaxThreads);
}

Diagnostic set_cpus(ProcessOptions& options, std::string_view value) {
  auto cpus = parse_cpu_list(value);
  if (!cpus) return refuse(cpus.error());
  if (auto checked = check_cpus(*cpus); !checked) return checked;
  options.cpus = std::move(*cpus);
  return {};
}

Diagnostic set_poll(ProcessOptions& options, std::string_view value) {
  if (value != "adaptive" && value != "fixed" && value != "always") {
    return refuse("takes adaptive, fixed or always");
  }
  options.poll = value;
  return {};
}

Diagnostic set_poll_max_us(ProcessOptions& options, std::string_view value) {
  return set_number(options.poll_max_us, value, std::uint32_t{0}, kMaxPollUs);
}

Diagnostic set_submission_cpus(ProcessOptions& options, std::string_view value) {
  // The affinity of this process does not bind kernel threads.
  auto cpus = parse_cpu_list(value);
  if (!cpus) return refuse(cpus.error());
  options.submission_cpus = std::move(*cpus);
  return {};
}

Diagnostic set_rados_images(ProcessOptions& options, std::string_view value) {
  return set_number(options.rados_images_per_connection, value, std::uint32_t{1}, kMaxRadosImages);
}

Diagnostic set_shutdown_timeout(ProcessOptions& options, std::string_view value) {
  return set_number(options.shutdown_timeout, value, std::uint32_t{1}, kMaxShutdownTimeout);
}

Diagnostic set_control(ProcessOptions& options, std::string_view value) {
  if (value.empty()) return refuse("takes a path");
  options.control_path = value;
  return {};
}

constexpr std::array kProcessSettings = {
    ProcessSetting{"threads", "N", "queue threads (default: at most one per queue and processor)",
                   kPerformanceGroup, false, set_threads},
    ProcessSetting{"cpus", "LIST", "pin queue threads to processors, such as 0,2-3 or 0-6:2",
                   kPerformanceGroup, false, set_cpus},
    ProcessSetting{"poll", "adaptive|fixed|always",
                   "when to poll before sleeping (default adaptive)", kPerformanceGroup, false,
                   set_poll},
    ProcessSetting{"poll-max-us", "N", "longest poll in microseconds, 0 for none (default 32)",
                   kPerformanceGroup, false, set_poll_max_us},
    ProcessSetting{"sqpoll", "on|off", "submit I/O from kernel threads (SQPOLL)", kPerformanceGroup,
                   true,
                   [](ProcessOptions& options, std::string_view value) {
                     return set_switch(options.has_submission_threads, value);
                   }},
    ProcessSetting{"sqpoll-cpus", "LIST", "pin kernel submission threads to processors",
                   kPerformanceGroup, false, set_submission_cpus},
    ProcessSetting{"rados-images-per-connection", "N",
                   "RBD images on one cluster connection (default 8)", kServerGroup, false,
                   set_rados_images},
    ProcessSetting{"shutdown-timeout", "SECONDS",
                   "longest wait for requests at the end (default 10)", kRecoveryGroup, false,
                   set_shutdown_timeout},
    ProcessSetting{"strict", "on|off", "exit with status 2 unless all disks can be served",
                   kRecoveryGroup, true,
                   [](ProcessOptions& options, std::string_view value) {
                     return set_switch(options.is_strict, value);
                   }},
    ProcessSetting{"control", "PATH", "unix socket for commands in JSON, one a line", kControlGroup,
                   false, set_control},
    ProcessSetting{"verbose", "on|off", "log debug messages", kControlGroup, true,
                   [](ProcessOptions& options, std::string_view value) {
                     return set_switch(options.is_verbose, value);
                   }},
};

}  // namespace

std::span<const ProcessSetting> process_settings() noexcept { return kProcessSettings; }

Diagnostic set_process_option(ProcessOptions& options, std::string_view name,
                              std::string_view value) {
  const auto setting = std::ranges::find(kProcessSettings, name, &ProcessSetting::name);
  if (setting == kProcessSettings.end()) return refuse(fmt::format("{} is no setting", name));
  if (auto set = setting->set(options, value); !set) {
    return refuse(describe_refusal(name, set.error(), value));
  }
  return {};
}

std::vector<std::string> process_setting_names() {
  std::vector<std::string> names;
  for (const ProcessSetting& setting : kProcessSettings) names.emplace_back(setting.name);
  return names;
}

}  // namespace guestio::app
