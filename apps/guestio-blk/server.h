// SPDX-License-Identifier: MIT
#pragma once

#include <vector>

#include "disk_start.h"
#include "options/options.h"
#include "takeover/receiver.h"

namespace guestio::app {

/// Serves `disks`, which are the options', until SIGTERM or SIGINT, or until the last
/// disk's socket has ended (a connected one that was handed down), or until another process has
/// taken over. `takeover`: whose place to take, or nullptr. Returns the exit status.
int serve(const Options& options, std::vector<StartingDisk> disks, TakeoverReceiver* takeover);

}  // namespace guestio::app
