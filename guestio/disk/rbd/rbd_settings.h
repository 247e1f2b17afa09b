// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <expected>
#include <functional>
#include <map>
#include <optional>
#include <string>

namespace guestio::disk {

/// Encryption of an image by librbd.
enum class RbdEncryption : std::uint8_t { kLuks1, kLuks2 };

/// Settings of the RBD backend (OpenOptions::settings).
struct RbdSettings {
  unsigned images_per_connection = 8;       ///< "rados-images-per-connection": 1 to 64
  std::chrono::seconds io_timeout{30};      ///< "io-timeout": 1 to 3600
  bool breaks_lock = false;                 ///< "break-lock": on or off
  std::optional<RbdEncryption> encryption;  ///< "encryption": luks1 or luks2
  std::string key_file;                     ///< "key-file": the passphrase, every byte of it
};

/// Refuses unknown keys and values. The error is a line for the operator.
[[nodiscard]] std::expected<RbdSettings, std::string> parse_rbd_settings(
    const std::map<std::string, std::string, std::less<>>& settings);

}  // namespace guestio::disk
