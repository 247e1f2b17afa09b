// SPDX-License-Identifier: MIT
#pragma once

#include <vector>

#include "image.h"
#include "options.h"

namespace guestio::app {

/// Serves `images`, one for each of the options' disks, until SIGTERM or SIGINT, or until the last
/// disk's socket has ended (a connected one that was handed down). Returns the exit status.
int serve(const Options& options, std::vector<Image> images);

}  // namespace guestio::app
