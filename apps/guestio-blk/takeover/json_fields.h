// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "guestio/base/unique_fd.h"

namespace guestio::app {

/// Reads a JSON object of another process. Checks kind and range of each field, keeps the first
/// error and throws nothing. A malformed field reads as 0, false or empty.
///
///     JsonFields fields(json, "ring", descriptors, error);
///     ring.size = fields.number<std::uint32_t>("size");
///     ...
///     if (!error.empty()) return std::unexpected(error);
class JsonFields {
 public:
  /// Each descriptor can be taken once. `object` may have any type.
  JsonFields(const nlohmann::json& object, const char* what, std::span<UniqueFd> descriptors,
             std::string& error);

  template <typename Number>
  Number number(const char* key) {
    return static_cast<Number>(number_up_to(key, std::numeric_limits<Number>::max()));
  }
  std::uint64_t number_up_to(const char* key, std::uint64_t max);
  bool flag(const char* key);
  std::string text(const char* key);
  /// Empty if it is missing: older processes do not send it.
  std::string optional_text(const char* key);
  /// Optional: empty for null.
  UniqueFd descriptor(const char* key);
  /// Empty if it is missing: older processes do not send it.
  UniqueFd optional_descriptor(const char* key);
  /// A missing descriptor is an error.
  UniqueFd required_descriptor(const char* key);
  /// Empty if it is missing or longer than `max`.
  const nlohmann::json& list(const char* key, std::size_t max);
  /// Nullptr for null.
  const nlohmann::json* object_or_null(const char* key);
  [[nodiscard]] JsonFields nested(const nlohmann::json& object, const char* what) const {
    return JsonFields(object, what, descriptors_, error_);
  }
  /// Reports the field as malformed.
  void reject(const char* key);

 private:
  const nlohmann::json& find(const char* key);

  const nlohmann::json& object_;
  const char* what_;
  std::span<UniqueFd> descriptors_;
  std::string& error_;
};

}  // namespace guestio::app
