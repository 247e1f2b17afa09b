// SPDX-License-Identifier: MIT
#pragma once

#include <optional>
#include <string>

#include "guestio/disk/disk.h"

namespace guestio::disk {

/// Where the kernel tells of the device that an open block device, or partition, lies on: a folder
/// with the files that read_lifetime() reads. Nothing when it tells nothing.
std::optional<std::string> find_lifetime(int fd);

/// What an eMMC device tells of its wear (`life_time` and `pre_eol_info` in its sysfs folder,
/// numbers of JEDEC JESD84). Nothing when these files are not there or make no sense. Does not wait
/// for the device: the kernel keeps its answer.
std::optional<Lifetime> read_lifetime(const std::string& folder);

}  // namespace guestio::disk
