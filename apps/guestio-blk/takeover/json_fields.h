// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "guestio/base/unique_fd.h"

namespace guestio::app {

/// Reads a JSON object of another process: each field is checked for its kind and range, the first
/// that is not as it should be is remembered, and nothing is thrown. What could not be read is 0,
/// false or empty.
///
///     Fields fields(json, "a ring", descriptors, complaint);
///     ring.size = fields.number<std::uint32_t>("size");
///     ...
///     if (!complaint.empty()) return std::unexpected(complaint);
class JsonFields {
 public:
  /// Every descriptor may be taken once. `object` may be anything.
  JsonFields(const nlohmann::json& object, const char* what, std::span<UniqueFd> descriptors,
             std::string& error);

  template <typename Number>
  Number number(const char* key) {
    return static_cast<Number>(number_up_to(key, std::numeric_limits<Number>::max()));
  }
  std::uint64_t number_up_to(const char* key, std::uint64_t max);
  bool flag(const char* key);
  std::string text(const char* key);
  /// Null is none.
  UniqueFd descriptor(const char* key);
  /// The same where there has to be one.
  UniqueFd required_descriptor(const char* key);
  /// An empty one when there is none, or more than `most`.
  const nlohmann::json& list(const char* key, std::size_t max);
  /// An object, or nullptr for null.
  const nlohmann::json* object_or_null(const char* key);
  [[nodiscard]] JsonFields nested(const nlohmann::json& object, const char* what) const {
    return JsonFields(object, what, descriptors_, error_);
  }
  void reject(const char* key);

 private:
  const nlohmann::json& find(const char* key);

  const nlohmann::json& object_;
  const char* what_;
  std::span<UniqueFd> descriptors_;
  std::string& error_;
};

}  // namespace guestio::app
