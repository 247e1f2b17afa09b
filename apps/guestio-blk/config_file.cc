// SPDX-License-Identifier: MIT
#include "config_file.h"

#include <fmt/format.h>

#include <utility>

#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

namespace guestio::app {

namespace {

std::unexpected<std::string> complain_at(const toml::node& node, std::string_view text) {
  return std::unexpected(fmt::format("line {}: {}", node.source().begin.line, text));
}

template <typename Number>
Complaint read_number(const toml::node& node, std::string_view key, std::optional<Number>& to) {
  const auto number = node.value_exact<std::int64_t>();
  if (!number || !std::in_range<Number>(*number)) {
    return complain_at(node, fmt::format("{} takes a number", key));
  }
  to = static_cast<Number>(*number);
  return {};
}

Complaint read_cpus(const toml::node& node, std::string_view key,
                    std::optional<std::vector<int>>& to) {
  const toml::array* const list = node.as_array();
  if (list == nullptr) {
    return complain_at(node, fmt::format("{} takes a list such as [2, 3]", key));
  }
  to.emplace();
  for (const toml::node& entry : *list) {
    std::optional<int> cpu;
    if (auto read = read_number(entry, fmt::format("each of {}", key), cpu); !read) return read;
    if (*cpu < 0) return complain_at(entry, fmt::format("each of {} takes a number", key));
    to->push_back(*cpu);
  }
  return {};
}

Complaint read_choice(const toml::node& node, std::string_view key, bool& to) {
  const auto choice = node.value_exact<bool>();
  if (!choice) return complain_at(node, fmt::format("{} takes true or false", key));
  to = *choice;
  return {};
}

/// A value as it would stand on the command line.
std::optional<std::string> to_text(const toml::node& node) {
  if (const auto text = node.value_exact<std::string>()) return text;
  if (const auto number = node.value_exact<std::int64_t>()) return std::to_string(*number);
  if (const auto choice = node.value_exact<bool>()) return *choice ? "on" : "off";
  return std::nullopt;
}

Complaint read_disk(const toml::node& node, std::vector<DiskOptions>& disks) {
  const toml::table* const table = node.as_table();
  if (table == nullptr) return complain_at(node, "a disk begins with [[disk]]");
  DiskOptions disk;
  for (const auto& [key, value] : *table) {
    const auto text = to_text(value);
    if (!text) return complain_at(value, fmt::format("{} takes a plain value", key.str()));
    if (auto set = set_disk_option(disk, key.str(), *text); !set) {
      return complain_at(value, set.error());
    }
  }
  if (auto checked = check_disk(disk); !checked) return complain_at(node, checked.error());
  disks.push_back(std::move(disk));
  return {};
}

Complaint read_disks(const toml::node& node, std::vector<DiskOptions>& disks) {
  const toml::array* const list = node.as_array();
  if (list == nullptr) return complain_at(node, "a disk begins with [[disk]]");
  for (const toml::node& disk : *list) {
    if (auto read = read_disk(disk, disks); !read) return read;
  }
  return {};
}

Complaint read_key(std::string_view key, const toml::node& value, ConfigFile& config) {
  if (key == "disk") return read_disks(value, config.disks);
  if (key == "threads") return read_number(value, key, config.threads);
  if (key == "cpus") return read_cpus(value, key, config.cpus);
  if (key == "sqpoll-cpus") return read_cpus(value, key, config.submission_cpus);
  if (key == "poll-max-us") return read_number(value, key, config.poll_max_us);
  if (key == "poll") {
    config.poll = value.value_exact<std::string>();
    return config.poll ? Complaint() : complain_at(value, "poll takes a word");
  }
  if (key == "control") {
    config.control_path = value.value_or(std::string());
    return config.control_path.empty() ? complain_at(value, "control takes a path") : Complaint();
  }
  if (key == "sqpoll") return read_choice(value, key, config.has_submission_threads);
  if (key == "verbose") return read_choice(value, key, config.is_verbose);
  return complain_at(value,
                     fmt::format("{} is no setting (one of a disk stands under [[disk]])", key));
}

}  // namespace

std::expected<ConfigFile, std::string> read_config_file(const std::string& path) {
  const auto parsed = toml::parse_file(path);
  if (!parsed) {
    const auto& error = parsed.error();
    if (error.source().begin.line == 0) {
      return std::unexpected(fmt::format("{}: cannot be read", path));
    }
    return std::unexpected(
        fmt::format("{}: line {}: {}", path, error.source().begin.line, error.description()));
  }
  ConfigFile config;
  for (const auto& [key, value] : parsed.table()) {
    if (auto read = read_key(key.str(), value, config); !read) {
      return std::unexpected(fmt::format("{}: {}", path, read.error()));
    }
  }
  return config;
}

}  // namespace guestio::app
