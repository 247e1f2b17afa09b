// SPDX-License-Identifier: MIT
#pragma once

#include "apps/guestio-load/arguments.h"

namespace guestio::load {

/// Loads a backend and prints what it reached. Returns the program's exit status.
int run_load(const RunArguments& arguments);

}  // namespace guestio::load
