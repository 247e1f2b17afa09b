// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "apps/guestio-blk/options/diagnostics.h"
#include "apps/guestio-blk/options/disk_options.h"
#include "apps/guestio-blk/options/setting.h"
#include "guestio/disk/throttle.h"

namespace guestio::app {

/// A setting and its value, as on the command line.
using SettingText = std::pair<std::string, std::string>;

/// Whether `name` is a setting of the limits: "iops-total", "bps-read-max" ..., "limit-group".
[[nodiscard]] bool is_limit_setting(std::string_view name);

/// Sets one value of `limits`. The refusal does not name the setting.
Diagnostic set_limit(disk::ThrottleLimits& limits, std::string_view name, std::string_view value);

/// All of `changes` or none, for a running disk: the value 0 removes a limit with its bursts. The
/// diagnostic names the setting.
Diagnostic change_limits(disk::ThrottleLimits& limits, const std::vector<SettingText>& changes);

/// The settings of `limits` that are not at their defaults.
[[nodiscard]] std::vector<SettingText> to_settings(const disk::ThrottleLimits& limits);

/// Gives each disk its DiskOptions::throttle: one of its own, or that of its limit-group. Reports
/// disks of a group with different limits; those without any have the limits of the others.
void assign_throttles(std::vector<DiskOptions>& disks, Diagnostics& diagnostics);

}  // namespace guestio::app
