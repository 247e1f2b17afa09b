// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

#include "apps/guestio-blk/options/diagnostics.h"
#include "apps/guestio-blk/options/disk_options.h"
#include "apps/guestio-blk/options/process_settings.h"

namespace guestio::app {

/// The content of a configuration file. Absent settings are empty.
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
  ProcessOptions process;
};

/// Reads a TOML file. Each diagnostic names file and line.
ConfigFile read_config_file(const std::string& path, Diagnostics& diagnostics);

}  // namespace guestio::app
