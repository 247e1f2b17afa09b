// SPDX-License-Identifier: MIT
#pragma once

#include "apps/guestio-load/arguments.h"

namespace guestio::load {

/// Fills a part of the disk, changes and reads it in random ways, reads it all again, and compares
/// every byte; only reads when the disk is read-only. Returns the program's exit status.
int verify_disk(const VerifyArguments& arguments);

}  // namespace guestio::load
