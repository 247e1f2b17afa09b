// SPDX-License-Identifier: MIT
#include "guestio/disk/rbd/rbd_settings.h"

#include <fmt/format.h>

#include <charconv>
#include <string_view>

namespace guestio::disk {

namespace {

using Fault = std::optional<std::string>;

Fault parse_count(std::string_view key, std::string_view text, unsigned most, unsigned& to) {
  unsigned value = 0;
  const char* const end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, value);
  if (parsed.ptr != end || parsed.ec != std::errc() || value == 0 || value > most) {
    return fmt::format("{}: '{}' is not a number from 1 to {}", key, text, most);
  }
  to = value;
  return std::nullopt;
}

Fault apply_setting(RbdSettings& settings, std::string_view key, const std::string& value) {
  if (key == "rados-images-per-connection") {
    return parse_count(key, value, 64, settings.images_per_connection);
  }
  if (key == "io-timeout") {
    unsigned seconds = 0;
    auto fault = parse_count(key, value, 3600, seconds);
    settings.io_timeout = std::chrono::seconds(seconds);
    return fault;
  }
  if (key == "break-lock") {
    if (value != "on" && value != "off")
      return fmt::format("{}: '{}' is not on or off", key, value);
    settings.breaks_lock = value == "on";
    return std::nullopt;
  }
  if (key == "encryption") {
    if (value != "luks1" && value != "luks2") {
      return fmt::format("{}: '{}' is not luks1 or luks2", key, value);
    }
    settings.encryption = value == "luks1" ? RbdEncryption::kLuks1 : RbdEncryption::kLuks2;
    return std::nullopt;
  }
  if (key == "key-file") {
    settings.key_file = value;
    return std::nullopt;
  }
  return fmt::format("the rbd backend has no setting '{}'", key);
}

}  // namespace

std::expected<RbdSettings, std::string> parse_rbd_settings(
    const std::map<std::string, std::string, std::less<>>& settings) {
  RbdSettings parsed;
  for (const auto& [key, value] : settings) {
    if (auto fault = apply_setting(parsed, key, value); fault)
      return std::unexpected(std::move(*fault));
  }
  if (parsed.encryption && parsed.key_file.empty()) {
    return std::unexpected("encryption without a key-file");
  }
  if (!parsed.encryption && !parsed.key_file.empty()) {
    return std::unexpected("a key-file without encryption (luks1 or luks2)");
  }
  return parsed;
}

}  // namespace guestio::disk
