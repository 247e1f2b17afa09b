// SPDX-License-Identifier: MIT
#pragma once

#include "apps/guestio-load/arguments.h"

namespace guestio::load {

/// Shows what a backend offers. Returns the program's exit status.
int show_info(const InfoArguments& arguments);

}  // namespace guestio::load
