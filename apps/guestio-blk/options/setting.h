// SPDX-License-Identifier: MIT
#pragma once

#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace guestio::app {

/// Success, or a short error text. The name of its subject precedes it.
using Diagnostic = std::expected<void, std::string>;

/// The sections of --help and of docs/options.md.
inline constexpr const char* kDiskGroup = "Disk";
inline constexpr const char* kPerformanceGroup = "Performance";
inline constexpr const char* kLimitGroup = "Limits";
inline constexpr const char* kServerGroup = "Server";
inline constexpr const char* kRecoveryGroup = "Recovery";
inline constexpr const char* kMigrationGroup = "Migration";
inline constexpr const char* kControlGroup = "Control";

/// One setting of `Target`. Its declaration serves the command line, --disk and the configuration
/// file: the name and the values are the same in all three.
template <typename Target>
struct Setting {
  const char* name;
  const char* type;  ///< placeholder of its value in --help
  const char* help;  ///< at most 60 characters
  const char* group;
  bool is_switch;  ///< takes on or off; on the command line it takes no value and means on
  Diagnostic (*set)(Target& target, std::string_view value);
};

inline std::unexpected<std::string> refuse(std::string text) {
  return std::unexpected(std::move(text));
}

inline Diagnostic set_switch(bool& to, std::string_view value) {
  if (value != "on" && value != "off") return refuse("takes on or off");
  to = value == "on";
  return {};
}

}  // namespace guestio::app
