// SPDX-License-Identifier: MIT
#pragma once

#include <vector>

#include "apps/guestio-blk/disk_start.h"
#include "apps/guestio-blk/options/options.h"
#include "apps/guestio-blk/takeover/receiver.h"

namespace guestio::app {

/// Serves `disks`, those of `options`, and returns the exit status. It ends on SIGTERM or SIGINT,
/// after the last inherited connection, or after a takeover by another process. `takeover`: the
/// connection to the process to replace, or nullptr.
int serve(const Options& options, std::vector<StartingDisk> disks, TakeoverReceiver* takeover);

}  // namespace guestio::app
