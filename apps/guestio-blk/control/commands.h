// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string_view>
#include <vector>

#include "apps/guestio-blk/failed_disk.h"
#include "apps/guestio-blk/options/process_settings.h"
#include "apps/guestio-blk/served_disk.h"

namespace guestio::app {

/// The objects of the server that commands use.
struct ServerContext {
  const std::vector<std::unique_ptr<ServedDisk>>& disks;
  const std::vector<std::unique_ptr<FailedDisk>>& failed;
  const vhost::QueueThreads& threads;
  const ProcessOptions& as_given;  ///< the process options before defaults
};

/// Executes one command and returns the reply: {"return": ...} or {"error": "..."}. The control
/// thread.
nlohmann::json handle_command(const ServerContext& context, const nlohmann::json& command);

/// All counters since the start of the process, for programs.
nlohmann::json make_statistics(const ServerContext& context);

}  // namespace guestio::app
