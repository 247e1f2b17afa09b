// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/options/config_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <expected>

#include "apps/shared/suggestion.h"
#include "guestio/base/unique_fd.h"

#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

namespace guestio::app {

namespace {

constexpr std::size_t kMaxFileBytes = std::size_t{4} << 20;

/// Returns the text of the file, or a short error text.
std::expected<std::string, std::string> read_text(const std::string& path) {
  const auto fail_with_errno = [] {
    return std::unexpected(fmt::format("cannot be read: {}", std::strerror(errno)));
  };
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return fail_with_errno();
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) return fail_with_errno();
  if (S_ISDIR(status.st_mode)) {
    return std::unexpected("is a directory: --config takes a file in TOML");
  }
  std::string text;
  std::array<char, 65536> bytes;
  while (true) {
    const ssize_t got = ::read(file.get(), bytes.data(), bytes.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_with_errno();
    if (got == 0) return text;
    text.append(bytes.data(), static_cast<std::size_t>(got));
    if (text.size() > kMaxFileBytes) {
      return std::unexpected("is larger than 4 MiB: --config takes a file in TOML");
    }
  }
}

/// The mode as on the command line. Decimal numbers are refused: TOML turns 0o660 into 432, and 660
/// could mean either.
std::optional<std::string> mode_to_text(const toml::node& node) {
  const auto* const number = node.as_integer();
  if (number == nullptr) return node.value_exact<std::string>();
  if (number->flags() != toml::value_flags::format_as_octal) return std::nullopt;
  return fmt::format("{:o}", number->get());
}

/// The value as on the command line.
std::optional<std::string> to_text(const toml::node& node) {
  if (const auto text = node.value_exact<std::string>()) return text;
  if (const auto number = node.value_exact<std::int64_t>()) return std::to_string(*number);
  if (const auto choice = node.value_exact<bool>()) return *choice ? "on" : "off";
  return std::nullopt;
}

/// The same for values and lists: [2, 3] is "2,3".
std::optional<std::string> to_list_text(const toml::node& node) {
  const toml::array* const list = node.as_array();
  if (list == nullptr) return to_text(node);
  std::string all;
  for (const toml::node& entry : *list) {
    const auto text = to_text(entry);
    if (!text) return std::nullopt;
    all += (all.empty() ? "" : ",") + *text;
  }
  return all;
}

/// Reads one file.
class Reader {
 public:
  Reader(const std::string& path, Diagnostics& diagnostics)
      : path_(path), diagnostics_(diagnostics) {}

  ConfigFile read(const toml::table& table) {
    for (const auto& [key, value] : table) {
      if (key.str() == "disk") {
        read_disks(value);
      } else {
        read_setting(key, value);
      }
    }
    for (const Finding& finding : found_) diagnostics_.add(finding.place, finding.text);
    return std::move(config_);
  }

  [[nodiscard]] std::string place(const toml::source_region& region) const {
    return fmt::format("{}:{}", path_, region.begin.line);
  }

 private:
  struct Finding {
    std::uint32_t line;
    std::string place;
    std::string text;
  };

  void report(const toml::source_region& region, std::string text) {
    // toml++ iterates in alphabetical order; findings are sorted by line.
    const auto position = std::ranges::upper_bound(found_, region.begin.line, {}, &Finding::line);
    found_.insert(position, {region.begin.line, place(region), std::move(text)});
  }

  void read_disks(const toml::node& node) {
    const toml::array* const list = node.as_array();
    if (list == nullptr) return report(node.source(), "disk: a disk begins with [[disk]]");
    for (const toml::node& disk : *list) {
      if (const toml::table* const table = disk.as_table(); table != nullptr) {
        read_disk(*table);
      } else {
        report(disk.source(), "disk: a disk begins with [[disk]]");
      }
    }
  }

  void read_disk(const toml::table& table) {
    DiskOptions disk;
    disk.origin = place(table.source());
    for (const auto& [key, value] : table) {
      disk.origins.emplace(key.str(), place(key.source()));
      const bool is_mode = key.str() == "socket-mode";
      const auto text = is_mode ? mode_to_text(value) : to_text(value);
      if (!text) {
        report(key.source(),
               fmt::format("{} takes {}", key.str(),
                           is_mode ? "text or an octal number, such as \"0660\" or 0o660"
                                   : "a plain value"));
      } else if (is_process_setting(key.str())) {
        report(key.source(),
               fmt::format("{} is a setting of the process: it stands above the first [[disk]]",
                           key.str()));
      } else if (auto set = set_disk_option(disk, key.str(), *text); !set) {
        report(key.source(), set.error());
      }
    }
    config_.disks.push_back(std::move(disk));
  }

  void read_setting(const toml::key& key, const toml::node& value) {
    const std::vector<std::string> disk_names = disk_setting_names();
    if (std::ranges::find(disk_names, key.str()) != disk_names.end()) {
      return report(key.source(), fmt::format("{} is a setting of a disk: it stands under "
                                              "[[disk]]",
                                              key.str()));
    }
    if (!is_process_setting(key.str())) {
      std::vector<std::string> known = process_setting_names();
      known.insert(known.end(), disk_names.begin(), disk_names.end());
      return report(key.source(), fmt::format("{} is no setting{}: --help shows all", key.str(),
                                              suggest(key.str(), known)));
    }
    const auto text = to_list_text(value);
    if (!text) return report(key.source(), fmt::format("{} takes a plain value", key.str()));
    if (auto set = set_process_option(config_.process, key.str(), *text); !set) {
      report(key.source(), set.error());
    }
  }

  static bool is_process_setting(std::string_view name) {
    return std::ranges::find(process_settings(), name, &ProcessSetting::name) !=
           process_settings().end();
  }

  const std::string& path_;
  Diagnostics& diagnostics_;
  ConfigFile config_;
  std::vector<Finding> found_;
};

}  // namespace

ConfigFile read_config_file(const std::string& path, Diagnostics& diagnostics) {
  const auto text = read_text(path);
  if (!text) {
    diagnostics.add(path, text.error());
    return {};
  }
  Reader reader(path, diagnostics);
  const auto parsed = toml::parse(*text, path);
  if (!parsed) {
    const std::string_view description = parsed.error().description();
    const bool is_text = description.find("parsing string") != std::string_view::npos;
    diagnostics.add(reader.place(parsed.error().source()),
                    fmt::format("syntax error: {}{}", description,
                                is_text ? " (is a quote closed in its line?)" : ""));
    return {};
  }
  return reader.read(parsed.table());
}

}  // namespace guestio::app
