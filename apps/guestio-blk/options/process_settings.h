// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <expected>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "apps/guestio-blk/options/setting.h"

namespace guestio::app {

/// Options of the process, from the command line or above the disks of a configuration file. An
/// absent option is empty.
struct ProcessOptions {
  std::optional<std::size_t> threads;
  std::optional<std::vector<int>> cpus;
  std::optional<std::string> poll;
  std::optional<std::uint32_t> poll_max_us;
  bool has_submission_threads = false;
  std::optional<std::vector<int>> submission_cpus;
  std::string control_path;
  std::optional<std::uint32_t> rados_images_per_connection;
  std::optional<std::uint32_t> shutdown_timeout;  ///< seconds
  bool is_strict = false;
  bool is_verbose = false;
};

using ProcessSetting = Setting<ProcessOptions>;

/// All settings of the process, in the order of --help.
[[nodiscard]] std::span<const ProcessSetting> process_settings() noexcept;

/// Applies one of process_settings() to `options`. The diagnostic names setting and value.
Diagnostic set_process_option(ProcessOptions& options, std::string_view name,
                              std::string_view value);

[[nodiscard]] std::vector<std::string> process_setting_names();

inline constexpr std::size_t kMaxThreads = 64;
inline constexpr std::uint32_t kMaxRadosImages = 64;
inline constexpr std::uint32_t kMaxShutdownTimeout = 3600;
inline constexpr std::uint32_t kMaxPollUs = 1'000'000;

}  // namespace guestio::app
