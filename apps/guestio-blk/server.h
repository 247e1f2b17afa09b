// SPDX-License-Identifier: MIT
#pragma once

#include "image.h"
#include "options.h"

namespace guestio::app {

/// Serves `image` as the options say until SIGTERM or SIGINT (or, on a connected socket, until the
/// front-end leaves). Returns the exit status.
int serve(const Options& options, const Image& image);

}  // namespace guestio::app
