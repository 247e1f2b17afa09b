// SPDX-License-Identifier: MIT
#include "takeover/json_fields.h"

#include <fmt/format.h>

namespace guestio::app {

namespace {

using Json = nlohmann::json;

const Json kNull;
const Json kEmptyList = Json::array();

}  // namespace

Fields::Fields(const Json& object, const char* what, std::span<UniqueFd> descriptors,
               std::string& complaint)
    : object_(object), what_(what), descriptors_(descriptors), complaint_(complaint) {
  if (!object.is_object() && complaint_.empty()) complaint_ = fmt::format("{} is no object", what_);
}

void Fields::complain(const char* key) {
  if (complaint_.empty()) complaint_ = fmt::format("{}: {} makes no sense", what_, key);
}

const Json& Fields::find(const char* key) {
  const auto found = object_.is_object() ? object_.find(key) : object_.end();
  if (object_.is_object() && found != object_.end()) return *found;
  complain(key);
  return kNull;
}

std::uint64_t Fields::number_up_to(const char* key, std::uint64_t most) {
  const Json& value = find(key);
  if (value.is_number_unsigned() && value.get<std::uint64_t>() <= most) {
    return value.get<std::uint64_t>();
  }
  complain(key);
  return 0;
}

bool Fields::flag(const char* key) {
  const Json& value = find(key);
  if (value.is_boolean()) return value.get<bool>();
  complain(key);
  return false;
}

std::string Fields::text(const char* key) {
  const Json& value = find(key);
  if (value.is_string()) return value.get<std::string>();
  complain(key);
  return {};
}

UniqueFd Fields::descriptor(const char* key) {
  const Json& value = find(key);
  if (value.is_null()) return {};
  const bool is_there = value.is_number_unsigned() &&
                        value.get<std::uint64_t>() < descriptors_.size() &&
                        descriptors_[value.get<std::size_t>()];
  if (is_there) return std::move(descriptors_[value.get<std::size_t>()]);
  complain(key);
  return {};
}

UniqueFd Fields::needed_descriptor(const char* key) {
  UniqueFd taken = descriptor(key);
  if (!taken) complain(key);
  return taken;
}

const Json& Fields::list(const char* key, std::size_t most) {
  const Json& value = find(key);
  if (value.is_array() && value.size() <= most) return value;
  complain(key);
  return kEmptyList;
}

const Json* Fields::part(const char* key) {
  const Json& value = find(key);
  if (value.is_object()) return &value;
  if (!value.is_null()) complain(key);
  return nullptr;
}

}  // namespace guestio::app
