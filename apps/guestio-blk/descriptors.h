// SPDX-License-Identifier: MIT
#pragma once

#include <expected>
#include <string>

#include "apps/guestio-blk/disk_start.h"

namespace guestio::app {

/// Raises the soft limit of descriptors (RLIMIT_NOFILE) to the hard limit.
void raise_descriptor_limit();

/// Shares the limit among the disks: all offer the same number of memory slots
/// (Disks::memory_slots), so no front-end can exhaust the descriptors of another disk. Failed disks
/// have their share. Requires: everything is open except the sockets.
/// Errors: a line for the operator, if the minimum number of slots does not fit.
[[nodiscard]] std::expected<void, std::string> share_descriptors(Disks& disks);

}  // namespace guestio::app
