// SPDX-License-Identifier: MIT
#pragma once

#include "apps/guestio-load/arguments.h"

namespace guestio::load {

/// Prints features and configuration of a backend. Returns the exit status.
int show_info(const InfoArguments& arguments);

}  // namespace guestio::load
