// SPDX-License-Identifier: MIT
#pragma once

#include <optional>
#include <string>

#include "guestio/disk/disk.h"

namespace guestio::disk {

/// The sysfs folder with the wear of the device under an open block device or partition, for
/// read_lifetime(). Nothing if the device reports none.
std::optional<std::string> find_lifetime(int fd);

/// Wear of an eMMC device: `life_time` and `pre_eol_info` in its sysfs folder, numbers of JEDEC
/// JESD84. Nothing if the files are missing or malformed. Does not wait for the device: the kernel
/// caches the values.
std::optional<Lifetime> read_lifetime(const std::string& folder);

}  // namespace guestio::disk
