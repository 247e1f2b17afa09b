// SPDX-License-Identifier: MIT
#pragma once

#include <expected>
#include <string>

#include "disk_start.h"

namespace guestio::app {

/// To as many descriptors as the process may have (RLIMIT_NOFILE): each disk takes some and each
/// front-end more.
void raise_descriptor_limit();

/// Shares out what the limit leaves: each disk offers as many memory slots as all can have
/// (Disks::memory_slots), so no front-end can use up another disk's descriptors. Disks that have
/// failed for now have their share too. Call it when all is open but the sockets.
/// Errors: a line for the operator, when not even the fewest slots fit.
[[nodiscard]] std::expected<void, std::string> share_descriptors(Disks& disks);

}  // namespace guestio::app
