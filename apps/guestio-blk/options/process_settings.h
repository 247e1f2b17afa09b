// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <expected>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "options/disk_options.h"

namespace guestio::app {

/// What can be said about the process, on the command line or above the disks of a configuration
/// file; what is not said is empty.
struct ProcessOptions {
  std::optional<std::size_t> threads;
  std::optional<std::vector<int>> cpus;
  std::optional<std::string> poll;
  std::optional<std::uint32_t> poll_max_us;
  bool has_submission_threads = false;
  std::optional<std::vector<int>> submission_cpus;
  std::string control_path;
  bool is_strict = false;
  bool is_verbose = false;
};

/// One thing that can be said about the process: an option of the command line and a key of the
/// configuration file, by the same name and with the same values in both.
struct ProcessSetting {
  const char* name;
  const char* type;  ///< of its value, as --help shows it
  const char* help;
  bool is_switch;  ///< on or off; without a value it is on
  Diagnostic (*set)(ProcessOptions& options, std::string_view value);
};

/// All there are, in the order of --help.
[[nodiscard]] std::span<const ProcessSetting> process_settings() noexcept;

/// Changes `options` as one of process_settings() says. The complaint names setting and value.
Diagnostic set_process_option(ProcessOptions& options, std::string_view name,
                              std::string_view value);

[[nodiscard]] std::vector<std::string> process_setting_names();

inline constexpr std::size_t kMaxThreads = 64;
inline constexpr std::uint32_t kMaxPollUs = 1'000'000;

}  // namespace guestio::app
