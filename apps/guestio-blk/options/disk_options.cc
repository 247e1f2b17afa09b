// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/options/disk_options.h"

#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>

#include "apps/guestio-blk/options/setting.h"
#include "apps/shared/suggestion.h"
#include "guestio/blk/block_device.h"

namespace guestio::app {

namespace {

template <typename Number>
std::optional<Number> parse_number(std::string_view text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

Diagnostic set_size(ByteCount& to, std::string_view value, const char* refusal) {
  const auto size = parse_byte_count(value);
  if (!size) return refuse(refusal);
  to = *size;
  return {};
}

Diagnostic set_name(DiskOptions& disk, std::string_view value) {
  constexpr std::string_view kAllowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
  constexpr std::size_t kMaxLength = 32;
  if (value.empty() || value.size() > kMaxLength ||
      value.find_first_not_of(kAllowed) != std::string_view::npos) {
    return refuse("takes 1 to 32 letters, digits, dots, dashes and underscores");
  }
  disk.name = value;
  return {};
}

Diagnostic set_fd(DiskOptions& disk, std::string_view value) {
  const auto fd = parse_number<int>(value);
  disk.socket_fd =
      fd.value_or(-1);  // set even when refused: check_disk() reports no missing socket
  if (!fd || *fd < 0) return refuse("takes the number of a descriptor");
  if (*fd <= STDERR_FILENO) {
    return refuse("takes a descriptor other than standard input, output and error (0 to 2)");
  }
  return {};
}

/// The mode of the socket in octal, as for chmod.
Diagnostic set_socket_mode(DiskOptions& disk, std::string_view value) {
  constexpr unsigned kMaximum = 0777;
  unsigned mode = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), mode, 8);
  if (error != std::errc() || end != value.data() + value.size() || mode > kMaximum) {
    return refuse("takes a mode in octal from 0 to 0777, such as 0660");
  }
  disk.socket_access.mode = mode;
  return {};
}

/// Finds the number of a user or group. `look_up`: getpwnam_r or getgrnam_r. `value`: a name, or
/// the number itself.
template <typename Entry, typename LookUp>
std::optional<std::uint32_t> find_id(std::string_view value, std::uint32_t Entry::* id,
                                     LookUp look_up) {
  constexpr std::size_t kInitialBytes = 1024;
  constexpr std::size_t kMaxBytes = std::size_t{1} << 20;  // a group can have very many members
  const std::string name(value);
  Entry entry{};
  Entry* found = nullptr;
  std::vector<char> buffer(kInitialBytes);
  while (look_up(name.c_str(), &entry, buffer.data(), buffer.size(), &found) == ERANGE &&
         buffer.size() < kMaxBytes) {
    buffer.resize(buffer.size() * 2);
  }
  if (found != nullptr) return entry.*id;
  const auto number = parse_number<std::uint32_t>(value);
  // chown() takes the largest number as "unchanged".
  if (!number || *number == static_cast<std::uint32_t>(-1)) return std::nullopt;
  return number;
}

Diagnostic set_socket_owner(DiskOptions& disk, std::string_view value) {
  disk.socket_access.owner = find_id(value, &passwd::pw_uid, ::getpwnam_r);
  if (disk.socket_access.owner) return {};
  return refuse("takes the name of a user of this host or a user's number");
}

Diagnostic set_socket_group(DiskOptions& disk, std::string_view value) {
  disk.socket_access.group = find_id(value, &group::gr_gid, ::getgrnam_r);
  if (disk.socket_access.group) return {};
  return refuse("takes the name of a group of this host or a group's number");
}

Diagnostic set_queues(DiskOptions& disk, std::string_view value) {
  const auto queues = parse_number<std::uint16_t>(value);
  if (!queues || *queues == 0 || *queues > kMaxQueues) {
    return refuse(fmt::format("takes 1 to {}", kMaxQueues));
  }
  disk.queues = *queues;
  return {};
}

Diagnostic set_serial(DiskOptions& disk, std::string_view value) {
  if (value.size() > 20) return refuse("takes up to 20 bytes");
  disk.serial = value;
  return {};
}

Diagnostic set_bounce_limit(DiskOptions& disk, std::string_view value) {
  constexpr std::uint64_t kMin = 64 << 10;
  auto set = set_size(disk.bounce_limit, value, "takes a size such as 8M");
  if (set && disk.bounce_limit.raw() < kMin) return refuse("takes at least 64k");
  return set;
}

Diagnostic set_max_ranges(DiskOptions& disk, std::string_view value) {
  const auto count = parse_number<std::uint32_t>(value);
  if (!count || *count == 0 || *count > blk::BlockDevice::kMaxRanges) {
    return refuse(fmt::format("takes 1 to {}", blk::BlockDevice::kMaxRanges));
  }
  disk.max_ranges = *count;
  return {};
}

Diagnostic set_fixed_buffers(DiskOptions& disk, std::string_view value) {
  if (value != "auto" && value != "on" && value != "off") return refuse("takes auto, on or off");
  disk.fixed_buffers = value == "on"    ? FixedBuffers::kOn
                       : value == "off" ? FixedBuffers::kOff
                                        : FixedBuffers::kAuto;
  return {};
}

Diagnostic set_on_error(DiskOptions& disk, std::string_view value) {
  using blk::OnError;
  if (value == "report") {
    disk.on_error = OnError::kReport;
  } else if (value == "retry") {
    disk.on_error = OnError::kRetry;
  } else if (value == "hold") {
    disk.on_error = OnError::kHold;
  } else if (value == "enospc") {
    disk.on_error = OnError::kEnospc;
  } else {
    return refuse("takes report, retry, hold or enospc");
  }
  return {};
}

Diagnostic set_image_lock(DiskOptions& disk, std::string_view value) {
  if (value != "always" && value != "in-use") return refuse("takes always or in-use");
  disk.claim_mode = value == "always" ? disk::ClaimMode::kWhileOpen : disk::ClaimMode::kWhileInUse;
  return {};
}

Diagnostic set_format(DiskOptions& disk, std::string_view value) {
  if (value != "raw") {
    return refuse(
        "takes raw, the only format that is served; qemu-img convert -O raw makes it of others");
  }
  disk.is_known_raw = true;
  return {};
}

constexpr bool kIsSwitch = true;
constexpr bool kTakesValue = false;

constexpr std::array kSettings = {
    DiskSetting{"name", "NAME", "name in log lines and replies (default disk0, disk1, ...)",
                kDiskGroup, kTakesValue, set_name},
    DiskSetting{"socket-path", "PATH", "listen at this unix socket; replaces a stale one",
                kDiskGroup, kTakesValue,
                [](DiskOptions& disk, std::string_view value) -> Diagnostic {
                  if (value.empty()) return refuse("takes a path");
                  disk.socket_path = value;
                  return {};
                }},
    DiskSetting{"socket-mode", "MODE", "octal mode of the socket (default 0660)", kDiskGroup,
                kTakesValue, set_socket_mode},
    DiskSetting{"socket-owner", "USER", "owner of the socket (default: user of the process)",
                kDiskGroup, kTakesValue, set_socket_owner},
    DiskSetting{"socket-group", "GROUP", "group of the socket (default: group of the process)",
                kDiskGroup, kTakesValue, set_socket_group},
    DiskSetting{"fd", "N", "inherited socket, listening or connected", kDiskGroup, kTakesValue,
                set_fd},
    DiskSetting{"blk-file", "PATH", "raw image or block device to serve, or null:SIZE", kDiskGroup,
                kTakesValue,
                [](DiskOptions& disk, std::string_view value) -> Diagnostic {
                  disk.image = value;
                  return {};
                }},
    DiskSetting{"format", "raw", "the image is raw, whatever signature it has", kDiskGroup,
                kTakesValue, set_format},
    DiskSetting{"read-only", "on|off", "refuse writes; share the image with other readers",
                kDiskGroup, kIsSwitch,
                [](DiskOptions& disk, std::string_view value) {
                  return set_switch(disk.is_read_only, value);
                }},
    DiskSetting{"num-queues", "N", "number of virtqueues (default 1)", kDiskGroup, kTakesValue,
                set_queues},
    DiskSetting{"serial", "ID", "disk ID for the guest, at most 20 bytes", kDiskGroup, kTakesValue,
                set_serial},
    DiskSetting{"block-size", "SIZE", "logical block size, 512 to 4096 (default 512)", kDiskGroup,
                kTakesValue,
                [](DiskOptions& disk, std::string_view value) {
                  return set_size(disk.block_size, value, "takes a size such as 4096 or 4k");
                }},
    DiskSetting{"max-ranges", "N", "ranges in one discard or write-zeroes (default 1)", kDiskGroup,
                kTakesValue, set_max_ranges},
    DiskSetting{"packed-ring", "on|off", "offer packed rings (default on)", kDiskGroup, kTakesValue,
                [](DiskOptions& disk, std::string_view value) {
                  return set_switch(disk.has_packed_ring, value);
                }},
    DiskSetting{"buffered", "on|off", "use the host page cache instead of direct I/O",
                kPerformanceGroup, kIsSwitch,
                [](DiskOptions& disk, std::string_view value) {
                  return set_switch(disk.is_buffered, value);
                }},
    DiskSetting{"bounce-limit", "SIZE", "maximum bounce memory of a queue (default 8M)",
                kPerformanceGroup, kTakesValue, set_bounce_limit},
    DiskSetting{"fixed-buffers", "auto|on|off", "register memory with io_uring (default auto)",
                kPerformanceGroup, kTakesValue, set_fixed_buffers},
    DiskSetting{"iopoll", "on|off", "poll the device for completions of direct I/O",
                kPerformanceGroup, kIsSwitch,
                [](DiskOptions& disk, std::string_view value) {
                  return set_switch(disk.polls_device, value);
                }},
    DiskSetting{"on-error", "report|retry|hold|enospc",
                "policy for requests that the disk fails (default report)", kRecoveryGroup,
                kTakesValue, set_on_error},
    DiskSetting{"image-lock", "always|in-use", "when to hold the image locks (default always)",
                kMigrationGroup, kTakesValue, set_image_lock},
    DiskSetting{"post-copy", "on|off", "offer post-copy to a trusted front-end (default off)",
                kMigrationGroup, kTakesValue,
                [](DiskOptions& disk, std::string_view value) {
                  return set_switch(disk.has_post_copy, value);
                }},
};

/// Consumes the text up to the next single comma.
std::string consume_field(std::string_view& text) {
  std::string field;
  while (!text.empty()) {
    const char first = text.front();
    text.remove_prefix(1);
    if (first == ',') {
      if (!text.starts_with(',')) break;
      text.remove_prefix(1);
    }
    field.push_back(first);
  }
  return field;
}

/// The protocol prefix of an image name, such as "nbd"; empty for a path.
std::string_view find_protocol(std::string_view image) {
  constexpr std::string_view kSchemeLetters = "abcdefghijklmnopqrstuvwxyz0123456789+-.";
  const auto colon = image.find(':');
  if (colon == std::string_view::npos || colon == 0) return {};
  const auto scheme = image.substr(0, colon);
  if (scheme.find_first_not_of(kSchemeLetters) != std::string_view::npos) return {};
  const bool is_address = image.substr(colon).starts_with("://");
  return is_address || scheme == "nbd" || scheme == "rbd" ? scheme : std::string_view();
}

/// Mode and owner apply only to sockets that this process creates.
void check_socket_access(const DiskOptions& disk, Diagnostics& diagnostics) {
  if (!disk.socket_fd) return;
  for (const auto& [name, value] : disk.as_given) {
    if (name != "socket-mode" && name != "socket-owner" && name != "socket-group") continue;
    diagnostics.add(disk.origin_of(name),
                    fmt::format("{} does not go with fd, an existing socket: leave it out", name));
  }
}

}  // namespace

std::string DiskOptions::place() const {
  return socket_fd ? fmt::format("fd {}", *socket_fd) : socket_path;
}

std::string DiskOptions::origin_of(std::string_view setting) const {
  if (const auto found = origins.find(setting); found != origins.end()) return found->second;
  return origin.empty() ? fmt::format("--{}", setting) : origin;
}

std::span<const DiskSetting> disk_settings() noexcept { return kSettings; }

Diagnostic set_disk_option(DiskOptions& disk, std::string_view name, std::string_view value) {
  const auto setting = std::ranges::find(kSettings, name, &DiskSetting::name);
  if (setting == kSettings.end()) {
    const std::vector<std::string> names = disk_setting_names();
    return refuse(
        fmt::format("{} is no setting of a disk{}: --help shows all", name, suggest(name, names)));
  }
  auto set = setting->set(disk, value);
  if (!set) return refuse(describe_refusal(name, set.error(), value));
  disk.as_given.emplace_back(name, value);
  return {};
}

std::vector<std::string> disk_setting_names() {
  std::vector<std::string> names;
  for (const DiskSetting& setting : kSettings) names.emplace_back(setting.name);
  return names;
}

DiskOptions parse_disk(std::string_view text, std::string origin, Diagnostics& diagnostics) {
  DiskOptions disk;
  disk.origin = std::move(origin);
  while (!text.empty()) {
    const std::string field = consume_field(text);
    const auto equals = std::string_view(field).find('=');
    const std::string_view name = std::string_view(field).substr(0, equals);
    const auto setting = std::ranges::find(kSettings, name, &DiskSetting::name);
    std::string_view value;
    if (equals != std::string_view::npos) {
      value = std::string_view(field).substr(equals + 1);
    } else if (setting != kSettings.end() && setting->is_switch) {
      value = "on";
    }
    if (auto set = set_disk_option(disk, name, value); !set) {
      diagnostics.add(disk.origin, set.error());
    }
  }
  return disk;
}

void check_disk(const DiskOptions& disk, Diagnostics& diagnostics) {
  // On the command line, settings have dashes.
  const std::string_view dashes = disk.origin.empty() ? "--" : "";
  const auto add = [&](std::string_view setting, std::string_view text) {
    diagnostics.add(disk.origin_of(setting), text);
  };
  if (!disk.socket_path.empty() && disk.socket_fd) {
    add("fd", fmt::format("{0}fd and {0}socket-path are both given, and a disk has one "
                          "socket: leave one of the two out",
                          dashes));
  }
  check_socket_access(disk, diagnostics);
  if (disk.socket_path.empty() && !disk.socket_fd) {
    add("socket-path",
        fmt::format("socket-path or fd is needed: add {0}socket-path PATH, where front-ends "
                    "connect, or {0}fd N",
                    dashes));
  }
  if (disk.image.empty()) {
    add("blk-file", fmt::format("blk-file is needed: add {}blk-file PATH, an image file or a block "
                                "device",
                                dashes));
    return;
  }
  if (const auto protocol = find_protocol(disk.image); !protocol.empty()) {
    add("blk-file",
        fmt::format("{}: {} images are not supported by this version: serve a file or a "
                    "block device (a file of that name is reached as ./{})",
                    disk.image, protocol, disk.image));
  }
}

}  // namespace guestio::app
