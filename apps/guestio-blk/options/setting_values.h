// SPDX-License-Identifier: MIT
#pragma once

#include <expected>
#include <string>
#include <string_view>
#include <utility>

#include "options/disk_options.h"

/// What the settings of disks and of the process have in common.
namespace guestio::app {

inline std::unexpected<std::string> refuse(std::string text) {
  return std::unexpected(std::move(text));
}

inline Diagnostic set_switch(bool& to, std::string_view value) {
  if (value != "on" && value != "off") return refuse("takes on or off");
  to = value == "on";
  return {};
}

}  // namespace guestio::app
