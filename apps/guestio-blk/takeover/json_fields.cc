// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/takeover/json_fields.h"

#include <fmt/format.h>

namespace guestio::app {

namespace {

using Json = nlohmann::json;

const Json kNull;
const Json kEmptyList = Json::array();

}  // namespace

JsonFields::JsonFields(const Json& object, const char* what, std::span<UniqueFd> descriptors,
                       std::string& error)
    : object_(object), what_(what), descriptors_(descriptors), error_(error) {
  if (!object.is_object() && error_.empty()) error_ = fmt::format("{} is not an object", what_);
}

void JsonFields::reject(const char* key) {
  if (error_.empty()) error_ = fmt::format("{}: malformed field {}", what_, key);
}

const Json& JsonFields::find(const char* key) {
  const auto found = object_.is_object() ? object_.find(key) : object_.end();
  if (object_.is_object() && found != object_.end()) return *found;
  reject(key);
  return kNull;
}

std::uint64_t JsonFields::number_up_to(const char* key, std::uint64_t max) {
  const Json& value = find(key);
  if (value.is_number_unsigned() && value.get<std::uint64_t>() <= max) {
    return value.get<std::uint64_t>();
  }
  reject(key);
  return 0;
}

bool JsonFields::flag(const char* key) {
  const Json& value = find(key);
  if (value.is_boolean()) return value.get<bool>();
  reject(key);
  return false;
}

std::string JsonFields::text(const char* key) {
  const Json& value = find(key);
  if (value.is_string()) return value.get<std::string>();
  reject(key);
  return {};
}

std::string JsonFields::optional_text(const char* key) {
  return object_.is_object() && object_.contains(key) ? text(key) : std::string();
}

UniqueFd JsonFields::descriptor(const char* key) {
  const Json& value = find(key);
  if (value.is_null()) return {};
  const bool is_valid = value.is_number_unsigned() &&
                        value.get<std::uint64_t>() < descriptors_.size() &&
                        descriptors_[value.get<std::size_t>()];
  if (is_valid) return std::move(descriptors_[value.get<std::size_t>()]);
  reject(key);
  return {};
}

UniqueFd JsonFields::optional_descriptor(const char* key) {
  return object_.is_object() && object_.contains(key) ? descriptor(key) : UniqueFd();
}

UniqueFd JsonFields::required_descriptor(const char* key) {
  UniqueFd taken = descriptor(key);
  if (!taken) reject(key);
  return taken;
}

const Json& JsonFields::list(const char* key, std::size_t max) {
  const Json& value = find(key);
  if (value.is_array() && value.size() <= max) return value;
  reject(key);
  return kEmptyList;
}

const Json* JsonFields::object_or_null(const char* key) {
  const Json& value = find(key);
  if (value.is_object()) return &value;
  if (!value.is_null()) reject(key);
  return nullptr;
}

}  // namespace guestio::app
