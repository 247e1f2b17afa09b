// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <vector>

#include "disk_options.h"

namespace guestio::app {

/// What a configuration file says; what it does not say is empty.
///
///     threads = 2
///     cpus = [2, 3]
///
///     [[disk]]
///     name = "vm1"
///     socket-path = "/run/vm1.sock"
///     blk-file = "/var/lib/vms/vm1.raw"
///     num-queues = 2
struct ConfigFile {
  std::vector<DiskOptions> disks;
  std::optional<std::size_t> threads;
  std::optional<std::vector<int>> cpus;
  std::optional<std::string> poll;
  std::optional<std::uint32_t> poll_max_us;
  bool has_submission_threads = false;
  std::optional<std::vector<int>> submission_cpus;
  std::string control_path;
  bool is_verbose = false;
};

/// Reads TOML. The error is one line that names file and place.
std::expected<ConfigFile, std::string> read_config_file(const std::string& path);

}  // namespace guestio::app
