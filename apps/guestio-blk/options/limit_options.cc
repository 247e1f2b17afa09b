// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/options/limit_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>

#include "apps/shared/suggestion.h"

namespace guestio::app {

namespace {

std::optional<std::uint64_t> parse_value(std::string_view name, std::string_view text) {
  if (name.starts_with("bps-") && !name.ends_with("-length")) {
    const auto size = parse_byte_count(text);
    return size ? std::optional(size->raw()) : std::nullopt;
  }
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

/// The first setting of the limits that the disk was given, for diagnostics.
std::string_view first_limit(const DiskOptions& disk) {
  const auto found = std::ranges::find_if(
      disk.as_given, [](const SettingText& given) { return is_limit_setting(given.first); });
  return found == disk.as_given.end() ? "limit-group" : std::string_view(found->first);
}

}  // namespace

bool is_limit_setting(std::string_view name) {
  return name == "limit-group" || disk::find_throttle_setting(name).has_value();
}

Diagnostic set_limit(disk::ThrottleLimits& limits, std::string_view name, std::string_view value) {
  const auto setting = disk::find_throttle_setting(name);
  if (!setting) return refuse("is no limit");
  const auto number = parse_value(name, value);
  if (setting->value == &disk::ThrottleRate::max_seconds) {
    if (!number || *number == 0 || *number > disk::ThrottleLimits::kMaxSeconds) {
      return refuse(fmt::format("takes 1 to {} seconds", disk::ThrottleLimits::kMaxSeconds));
    }
  } else if (!number || *number > disk::ThrottleLimits::kMaxRate) {
    return refuse(name.starts_with("bps-") ? "takes bytes a second such as 100M, or 0 for no limit"
                                           : "takes operations a second, or 0 for no limit");
  }
  limits[setting->limit].*setting->value = *number;
  return {};
}

Diagnostic change_limits(disk::ThrottleLimits& limits, const std::vector<SettingText>& changes) {
  disk::ThrottleLimits changed = limits;
  const auto apply = [&](const SettingText& change) -> Diagnostic {
    auto set = set_limit(changed, change.first, change.second);
    if (!set) return refuse(describe_refusal(change.first, set.error(), change.second));
    return set;
  };
  // Removed limits first, whatever the order: their bursts go with them.
  for (const SettingText& change : changes) {
    const auto setting = disk::find_throttle_setting(change.first);
    if (!setting) {
      const auto names = disk::throttle_setting_names();
      return refuse(fmt::format("{} is no limit{}", change.first,
                                suggest(change.first, {names.begin(), names.end()})));
    }
    if (setting->value != &disk::ThrottleRate::average) continue;
    if (auto set = apply(change); !set) return set;
    if (changed[setting->limit].average == 0) changed[setting->limit] = {};
  }
  for (const SettingText& change : changes) {
    if (auto set = apply(change); !set) return set;
    const auto setting = disk::find_throttle_setting(change.first);
    disk::ThrottleRate& rate = changed[setting->limit];
    if (setting->value == &disk::ThrottleRate::max && rate.max == 0) rate.max_seconds = 1;
  }
  if (std::string conflict = disk::find_conflict(changed); !conflict.empty()) {
    return refuse(std::move(conflict));
  }
  limits = changed;
  return {};
}

std::vector<SettingText> to_settings(const disk::ThrottleLimits& limits) {
  const disk::ThrottleLimits defaults;
  std::vector<SettingText> settings;
  for (const std::string& name : disk::throttle_setting_names()) {
    const auto setting = *disk::find_throttle_setting(name);
    const std::uint64_t value = limits[setting.limit].*setting.value;
    if (value == defaults[setting.limit].*setting.value) continue;
    settings.emplace_back(name, std::to_string(value));
  }
  return settings;
}

void assign_throttles(std::vector<DiskOptions>& disks, Diagnostics& diagnostics) {
  std::map<std::string, const DiskOptions*, std::less<>> groups;  // a disk with their limits
  for (const DiskOptions& disk : disks) {
    if (disk.limit_group.empty()) continue;
    const auto [group, is_first] = groups.emplace(disk.limit_group, &disk);
    const DiskOptions& other = *group->second;
    if (is_first || disk.limits == other.limits || !disk.limits.is_limited()) continue;
    if (other.limits.is_limited()) {
      diagnostics.add(disk.origin_of(first_limit(disk)),
                      fmt::format("disks {} and {} of limit-group {} have different limits: give "
                                  "them to one of the two, or the same to both",
                                  other.name, disk.name, disk.limit_group));
    } else {
      group->second = &disk;
    }
  }
  std::map<std::string, std::shared_ptr<disk::ThrottleGroup>, std::less<>> throttles;
  for (DiskOptions& disk : disks) {
    if (disk.limit_group.empty()) {
      disk.throttle = std::make_shared<disk::ThrottleGroup>(disk.limits);
      continue;
    }
    auto& throttle = throttles[disk.limit_group];
    if (!throttle) {
      throttle = std::make_shared<disk::ThrottleGroup>(groups[disk.limit_group]->limits);
    }
    disk.throttle = throttle;
  }
}

}  // namespace guestio::app
