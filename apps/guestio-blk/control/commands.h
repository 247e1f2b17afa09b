// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string_view>
#include <vector>

#include "failed_disk.h"
#include "options/process_settings.h"
#include "served_disk.h"

namespace guestio::app {

/// What the commands of the control socket are about.
struct ServerContext {
  const std::vector<std::unique_ptr<ServedDisk>>& disks;
  const std::vector<std::unique_ptr<FailedDisk>>& failed;
  const vhost::QueueThreads& threads;
  const ProcessOptions& as_given;  ///< how the process was told to run
};

/// Answers one command: {"return": ...} or {"error": "..."}. The control thread.
nlohmann::json handle_command(const ServerContext& context, const nlohmann::json& command);

/// All that is counted, for programs: each number since the process started.
nlohmann::json make_statistics(const ServerContext& context);

}  // namespace guestio::app
