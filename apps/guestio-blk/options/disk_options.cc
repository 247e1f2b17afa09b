// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/options/disk_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <grp.h>
#include <pwd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <filesystem>

#include "apps/guestio-blk/options/image_name.h"
#include "apps/guestio-blk/options/limit_options.h"
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

Diagnostic set_to_name(std::string& to, std::string_view value) {
  constexpr std::string_view kAllowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
  constexpr std::size_t kMaxLength = 32;
  if (value.empty() || value.size() > kMaxLength ||
      value.find_first_not_of(kAllowed) != std::string_view::npos) {
    return refuse("takes 1 to 32 letters, digits, dots, dashes and underscores");
  }
  to = value;
  return {};
}

Diagnostic set_name(DiskOptions& disk, std::string_view value) {
  return set_to_name(disk.name, value);
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
  constexpr std::array<std::string_view, 9> kFormats = {"raw", "qcow2", "vmdk",      "vdi", "vhdx",
                                                        "vpc", "qed",   "parallels", "luks"};
  if (std::ranges::find(kFormats, value) == kFormats.end()) {
    return refuse(fmt::format("takes {}", fmt::join(kFormats, ", ")));
  }
  disk.format = value;
  return {};
}

Diagnostic set_create(DiskOptions& disk, std::string_view value) {
  constexpr std::uint64_t kMaxBlockSize = 4096;
  ByteCount size;
  auto set = set_size(size, value, "takes a size such as 10G");
  if (set && (size.raw() == 0 || size.raw() % kMaxBlockSize != 0)) {
    return refuse("takes a multiple of 4096 bytes");
  }
  if (set) disk.create_size = size;
  return set;
}

Diagnostic set_io_timeout(DiskOptions& disk, std::string_view value) {
  constexpr std::uint32_t kMax = 3600;
  const auto seconds = parse_number<std::uint32_t>(value);
  if (!seconds || *seconds == 0 || *seconds > kMax) {
    return refuse(fmt::format("takes 1 to {} seconds", kMax));
  }
  disk.backend_settings["io-timeout"] = value;
  return {};
}

Diagnostic set_unflushed_limit(DiskOptions& disk, std::string_view value) {
  constexpr ByteCount kMax(std::uint64_t{1} << 30);
  ByteCount size;
  auto set = set_size(size, value, "takes a size such as 16M");
  if (set && size > kMax) return refuse("takes 0 to 1G");
  if (set) disk.backend_settings["unflushed-limit"] = std::to_string(size.raw());
  return set;
}

Diagnostic set_encryption(DiskOptions& disk, std::string_view value) {
  if (value != "luks1" && value != "luks2") return refuse("takes luks1 or luks2");
  disk.backend_settings["encryption"] = value;
  return {};
}

Diagnostic set_break_lock(DiskOptions& disk, std::string_view value) {
  bool is_on = false;
  if (auto set = set_switch(is_on, value); !set) return set;
  disk.backend_settings["break-lock"] = value;
  return {};
}

Diagnostic set_backend_text(DiskOptions& disk, const char* name, std::string_view value) {
  if (value.empty()) return refuse("takes a value");
  disk.backend_settings[name] = value;
  return {};
}

constexpr bool kIsSwitch = true;
constexpr bool kTakesValue = false;

/// A name with static storage, as an argument of a template.
template <std::size_t kSize>
struct LimitName {
  // Implicit: made from a literal.
  consteval LimitName(const char (&name)[kSize]) { std::ranges::copy(name, text); }
  char text[kSize];
};

template <LimitName kName>
consteval DiskSetting make_limit(const char* type, const char* help) {
  return {kName.text,
          type,
          help,
          kLimitGroup,
          kTakesValue,
          [](DiskOptions& disk, std::string_view value) {
            return set_limit(disk.limits, kName.text, value);
          }};
}

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
    DiskSetting{"blk-file", "PATH", "image, device, null:SIZE, ram:SIZE, NBD or RBD URI",
                kDiskGroup, kTakesValue,
                [](DiskOptions& disk, std::string_view value) -> Diagnostic {
                  disk.image = value;
                  return {};
                }},
    DiskSetting{"format", "FORMAT", "raw (whatever signature it has), qcow2, vmdk, vdi ...",
                kDiskGroup, kTakesValue, set_format},
    DiskSetting{"create", "SIZE", "make a raw image of this size where none is", kDiskGroup,
                kTakesValue, set_create},
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
    make_limit<"iops-total">("N", "operations a second (default: no limit)"),
    make_limit<"iops-total-max">("N", "burst rate of operations a second"),
    make_limit<"iops-total-max-length">("N", "seconds of a burst of operations (default 1)"),
    make_limit<"iops-read">("N", "reads a second (default: no limit)"),
    make_limit<"iops-read-max">("N", "burst rate of reads a second"),
    make_limit<"iops-read-max-length">("N", "seconds of a burst of reads (default 1)"),
    make_limit<"iops-write">("N", "writes a second (default: no limit)"),
    make_limit<"iops-write-max">("N", "burst rate of writes a second"),
    make_limit<"iops-write-max-length">("N", "seconds of a burst of writes (default 1)"),
    make_limit<"bps-total">("SIZE", "bytes a second (default: no limit)"),
    make_limit<"bps-total-max">("SIZE", "burst rate of bytes a second"),
    make_limit<"bps-total-max-length">("N", "seconds of a burst of bytes (default 1)"),
    make_limit<"bps-read">("SIZE", "bytes a second read (default: no limit)"),
    make_limit<"bps-read-max">("SIZE", "burst rate of bytes read a second"),
    make_limit<"bps-read-max-length">("N", "seconds of a burst of bytes read (default 1)"),
    make_limit<"bps-write">("SIZE", "bytes a second written (default: no limit)"),
    make_limit<"bps-write-max">("SIZE", "burst rate of bytes written a second"),
    make_limit<"bps-write-max-length">("N", "seconds of a burst of bytes written (default 1)"),
    DiskSetting{"limit-group", "NAME", "disks with this name share one budget of limits",
                kLimitGroup, kTakesValue,
                [](DiskOptions& disk, std::string_view value) {
                  return set_to_name(disk.limit_group, value);
                }},
    DiskSetting{"on-error", "report|retry|hold|enospc",
                "failed requests (default report; hold with a server)", kRecoveryGroup, kTakesValue,
                set_on_error},
    DiskSetting{"io-timeout", "SECONDS", "longest silence of a disk's server (default 30)",
                kRecoveryGroup, kTakesValue, set_io_timeout},
    DiskSetting{"unflushed-limit", "SIZE", "unflushed writes kept for a server's restart (16M)",
                kRecoveryGroup, kTakesValue, set_unflushed_limit},
    DiskSetting{"break-lock", "on|off", "break an RBD image's lock of a dead owner", kRecoveryGroup,
                kIsSwitch, set_break_lock},
    DiskSetting{"tls-certificates", "PATH", "folder of the certificates for nbds", kServerGroup,
                kTakesValue,
                [](DiskOptions& disk, std::string_view value) {
                  return set_backend_text(disk, "tls-certificates", value);
                }},
    DiskSetting{"tls-psk-file", "PATH", "file of the pre-shared key for nbds", kServerGroup,
                kTakesValue,
                [](DiskOptions& disk, std::string_view value) {
                  return set_backend_text(disk, "tls-psk-file", value);
                }},
    DiskSetting{"tls-username", "NAME", "user of the pre-shared key (default: that of the URI)",
                kServerGroup, kTakesValue,
                [](DiskOptions& disk, std::string_view value) {
                  return set_backend_text(disk, "tls-username", value);
                }},
    DiskSetting{"tls-hostname", "NAME", "name in the server's certificate (default: its host)",
                kServerGroup, kTakesValue,
                [](DiskOptions& disk, std::string_view value) {
                  return set_backend_text(disk, "tls-hostname", value);
                }},
    DiskSetting{"encryption", "luks1|luks2", "encryption of an RBD image", kServerGroup,
                kTakesValue, set_encryption},
    DiskSetting{"key-file", "PATH", "file of the passphrase of an encrypted image", kServerGroup,
                kTakesValue,
                [](DiskOptions& disk, std::string_view value) {
                  return set_backend_text(disk, "key-file", value);
                }},
    DiskSetting{"image-lock", "always|in-use", "when to hold the image locks (default always)",
                kMigrationGroup, kTakesValue, set_image_lock},
    DiskSetting{"post-copy", "on|off", "offer post-copy to a trusted front-end (default off)",
                kMigrationGroup, kTakesValue,
                [](DiskOptions& disk,
                   std::string_view value) { return set_switch(disk.has_post_copy, value); }},
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

/// Mode and owner apply only to sockets that this process creates.
void check_socket_access(const DiskOptions& disk, Diagnostics& diagnostics) {
  if (!disk.socket_fd) return;
  for (const auto& [name, value] : disk.as_given) {
    if (name != "socket-mode" && name != "socket-owner" && name != "socket-group") continue;
    diagnostics.add(disk.origin_of(name),
                    fmt::format("{} does not go with fd, an existing socket: leave it out", name));
  }
}

/// create and the formats are for files.
void check_format(const DiskOptions& disk, Diagnostics& diagnostics) {
  const auto add = [&](std::string_view setting, std::string text) {
    diagnostics.add(disk.origin_of(setting), text);
  };
  if (!is_file_image(disk.image)) {
    if (has_foreign_format(disk)) {
      add("format", fmt::format("format={} is for files, and {} is none: leave it out", disk.format,
                                disk.image));
    }
    if (disk.create_size) {
      add("create", fmt::format("create makes files, and {} is none: leave it out", disk.image));
    }
    return;
  }
  if (disk.create_size && has_foreign_format(disk)) {
    add("create",
        fmt::format("create makes raw images: qemu-img create -f {} makes this one", disk.format));
  }
  if (disk.create_size && disk.is_read_only) {
    add("create", "create does not go with read-only: leave one of the two out");
  }
  if (has_foreign_format(disk) && disk.claim_mode == disk::ClaimMode::kWhileInUse) {
    add("image-lock", fmt::format("image-lock=in-use is for raw images, and this one is {}: "
                                  "leave it out",
                                  disk.format));
  }
  if (has_foreign_format(disk) && disk.polls_device) {
    add("iopoll",
        fmt::format("iopoll is for raw images, and this one is {}: leave it out", disk.format));
  }
  if ((disk.format == "luks") != disk.backend_settings.contains("key-file")) {
    add("key-file", disk.format == "luks"
                        ? "format=luks needs key-file, the file with its passphrase"
                        : "key-file is for format=luks and for encrypted RBD images");
  }
}

/// Settings of servers are for disks that have one; their backend checks them further.
void check_backend_settings(const DiskOptions& disk, Diagnostics& diagnostics) {
  const bool has_server = has_server_backend(disk.image);
  for (const auto& [name, value] : disk.backend_settings) {
    const bool is_for_file =
        has_foreign_format(disk) &&
        (name == "io-timeout" || name == "unflushed-limit" || name == "key-file");
    if (has_server || is_for_file || (name == "key-file" && is_file_image(disk.image))) continue;
    diagnostics.add(disk.origin_of(name),
                    fmt::format("{} is for disks with a server, and {} has none: leave it out",
                                name, disk.image));
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
  if (const std::string conflict = disk::find_conflict(disk.limits); !conflict.empty()) {
    add(std::string_view(conflict).substr(0, conflict.find(' ')), conflict);
  }
  check_format(disk, diagnostics);
  check_backend_settings(disk, diagnostics);
}

std::string make_absolute(const DiskOptions& disk, std::string_view name,
                          const std::string& value) {
  constexpr std::array<std::string_view, 4> kPaths = {"socket-path", "tls-certificates",
                                                      "tls-psk-file", "key-file"};
  const bool is_path = std::ranges::find(kPaths, name) != kPaths.end() ||
                       (name == "blk-file" && is_file_image(disk.image));
  std::error_code ignored;
  const auto absolute = std::filesystem::absolute(value, ignored).string();
  return is_path && !ignored ? absolute : value;
}

}  // namespace guestio::app
