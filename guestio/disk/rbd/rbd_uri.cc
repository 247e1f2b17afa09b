// SPDX-License-Identifier: MIT
#include "guestio/disk/rbd/rbd_uri.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>
#include <vector>

#include "guestio/disk/registry.h"

namespace guestio::disk {

namespace {

using Text = std::expected<std::string, std::string>;

constexpr const char* kForm = "rbd:POOL[/NAMESPACE]/IMAGE[@SNAPSHOT][?id=USER&conf=FILE]";

std::vector<std::string_view> split_at(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const auto at = text.find(separator);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

Text decode(std::string_view text) {
  std::string decoded;
  while (!text.empty()) {
    const char first = text.front();
    text.remove_prefix(1);
    if (first != '%') {
      decoded += first;
      continue;
    }
    unsigned byte = 0;
    const char* const end = text.data() + (text.size() < 2 ? 0 : 2);
    const auto parsed = std::from_chars(text.data(), end, byte, 16);
    // A NUL would end the name early in librbd.
    if (parsed.ptr != end || parsed.ec != std::errc() || byte == 0) {
      return std::unexpected("a percent sign without the two digits of a byte");
    }
    decoded += static_cast<char>(byte);
    text.remove_prefix(2);
  }
  return decoded;
}

Text decode_name(std::string_view text, std::string_view what) {
  auto name = decode(text);
  if (name && (name->empty() || name->contains('\0'))) {
    return std::unexpected(fmt::format("no {} in the name ({})", what, kForm));
  }
  return name;
}

std::optional<std::string> set_parameter(RbdUri& uri, std::string_view parameter) {
  const auto equals = parameter.find('=');
  const auto key = parameter.substr(0, equals);
  std::string* const target = key == "id"          ? &uri.user
                              : key == "conf"      ? &uri.conf
                              : key == "namespace" ? &uri.pool_namespace
                                                   : nullptr;
  if (target == nullptr) {
    return fmt::format("unknown parameter '{}' (id, conf and namespace are known)", key);
  }
  if (equals == std::string_view::npos) return fmt::format("parameter '{}' without a value", key);
  auto value = decode_name(parameter.substr(equals + 1), key);
  if (!value) return value.error();
  if (key == "namespace" && !target->empty() && *target != *value) {
    return fmt::format("two namespaces: '{}' and '{}'", *target, *value);
  }
  *target = std::move(*value);
  return std::nullopt;
}

}  // namespace

std::string RbdUri::to_string() const {
  std::string text = pool + "/";
  if (!pool_namespace.empty()) text += pool_namespace + "/";
  text += image;
  if (!snapshot.empty()) text += "@" + snapshot;
  return text;
}

std::expected<RbdUri, std::string> parse_rbd_uri(std::string_view text) {
  text = after_scheme(text);
  const auto question = text.find('?');
  const auto path = split_at(text.substr(0, question), '/');
  if (path.size() != 2 && path.size() != 3) {
    return std::unexpected(fmt::format("not of the form {}", kForm));
  }
  RbdUri uri;
  auto pool = decode_name(path.front(), "pool");
  if (!pool) return std::unexpected(pool.error());
  uri.pool = std::move(*pool);
  if (path.size() == 3) {
    auto pool_namespace = decode_name(path[1], "namespace");
    if (!pool_namespace) return std::unexpected(pool_namespace.error());
    uri.pool_namespace = std::move(*pool_namespace);
  }
  const auto at = path.back().find('@');
  auto image = decode_name(path.back().substr(0, at), "image");
  if (!image) return std::unexpected(image.error());
  uri.image = std::move(*image);
  if (at != std::string_view::npos) {
    auto snapshot = decode_name(path.back().substr(at + 1), "snapshot");
    if (!snapshot) return std::unexpected(snapshot.error());
    uri.snapshot = std::move(*snapshot);
  }
  if (question == std::string_view::npos) return uri;
  for (const std::string_view parameter : split_at(text.substr(question + 1), '&')) {
    if (auto fault = set_parameter(uri, parameter); fault) return std::unexpected(*fault);
  }
  return uri;
}

}  // namespace guestio::disk
