// SPDX-License-Identifier: MIT
#pragma once

#include "apps/guestio-load/arguments.h"

namespace guestio::load {

/// Fills a region of the disk, runs random operations on it, reads all of it again, and compares
/// every byte. Only reads a read-only disk. Returns the exit status.
int verify_disk(const VerifyArguments& arguments);

}  // namespace guestio::load
