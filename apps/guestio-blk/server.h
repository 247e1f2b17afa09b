// SPDX-License-Identifier: MIT
#pragma once

#include "guestio/disk/file/file_disk.h"
#include "options.h"

namespace guestio::app {

/// Serves `disk` as the options say until SIGTERM or SIGINT (or, on a connected socket, until the
/// front-end leaves). Returns the exit status.
int serve(const Options& options, disk::FileDisk& disk);

}  // namespace guestio::app
