// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <expected>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "apps/guestio-blk/options/diagnostics.h"
#include "apps/guestio-blk/options/setting.h"
#include "guestio/base/units.h"
#include "guestio/base/unix_listener.h"
#include "guestio/blk/failure_policy.h"
#include "guestio/buf/bounce_buffer_tracker.h"
#include "guestio/disk/file/file_disk.h"
#include "guestio/disk/throttle.h"

namespace guestio::app {

/// Which memory is registered with the io_uring rings.
enum class FixedBuffers : std::uint8_t {
  kAuto,  ///< bounce memory and resident guest memory, unless RLIMIT_MEMLOCK limits locking
  kOn,    ///< all memory; absent guest pages are faulted in
  kOff,
};

/// The options of one disk.
struct DiskOptions {
  std::string name;              ///< in log lines and replies; never empty after parse_options()
  std::string socket_path;       ///< empty with `socket_fd`
  std::optional<int> socket_fd;  ///< inherited socket, listening or connected
  SocketAccess socket_access;    ///< of the socket at `socket_path`
  std::string image;
  std::string serial;  ///< empty: derived from the image's path
  std::uint16_t queues = 1;
  std::uint32_t max_ranges = 1;  ///< in one discard or write-zeroes request
  ByteCount block_size = ByteCount(512);
  ByteCount bounce_limit = buf::BounceBufferTracker::kDefaultLimit;  ///< for each queue
  bool is_read_only = false;
  bool is_buffered = false;
  std::string format;  ///< "raw": signatures are ignored; "": as raw, and they are refused
  std::optional<ByteCount> create_size;  ///< of a raw image that is made where none is
  bool has_packed_ring = true;           ///< offered to the front-end
  bool has_post_copy = false;            ///< offered to the front-end, which must be trusted
  FixedBuffers fixed_buffers = FixedBuffers::kAuto;
  bool polls_device = false;             ///< iopoll
  std::optional<blk::OnError> on_error;  ///< empty: the default of the backend
  disk::ClaimMode claim_mode = disk::ClaimMode::kWhileOpen;
  disk::ThrottleLimits limits;                    ///< as given; those of now are in `throttle`
  std::string limit_group;                        ///< empty: the limits are of this disk alone
  std::shared_ptr<disk::ThrottleGroup> throttle;  ///< set by assign_throttles()
  /// For the backend of a URI, which checks them: "tls-psk-file" and others.
  std::map<std::string, std::string, std::less<>> backend_settings;
  /// Names and values in the order of set_disk_option(), for a takeover.
  std::vector<std::pair<std::string, std::string>> as_given;

  /// Source of the options: "--disk 2", "/etc/guestio.toml:12", or empty for the command line.
  /// `origins` has the sources of single settings.
  std::string origin;
  std::map<std::string, std::string, std::less<>> origins;

  /// The subject of its log lines: "disk NAME".
  [[nodiscard]] std::string label() const { return "disk " + name; }
  /// Path or descriptor of its socket, for diagnostics only.
  [[nodiscard]] std::string place() const;
  /// Source of `setting`, for diagnostics.
  [[nodiscard]] std::string origin_of(std::string_view setting) const;
};

inline constexpr std::uint16_t kMaxQueues = 64;

using DiskSetting = Setting<DiskOptions>;

/// All settings of a disk, in the order of --help.
[[nodiscard]] std::span<const DiskSetting> disk_settings() noexcept;

[[nodiscard]] std::vector<std::string> disk_setting_names();

/// Applies one of disk_settings() to `disk`. The diagnostic names the setting.
Diagnostic set_disk_option(DiskOptions& disk, std::string_view name, std::string_view value);

/// Parses "socket-path=/run/a.sock,blk-file=/a.raw,read-only=on". As in QEMU's options, a comma in
/// a value is written twice. `origin`: source of the text.
DiskOptions parse_disk(std::string_view text, std::string origin, Diagnostics& diagnostics);

/// Checks the options of one disk against each other.
void check_disk(const DiskOptions& disk, Diagnostics& diagnostics);

/// Whether qemu-storage-daemon reads the image.
[[nodiscard]] inline bool has_foreign_format(const DiskOptions& disk) noexcept {
  return !disk.format.empty() && disk.format != "raw";
}

/// The value of a setting for a process with another working directory.
std::string make_absolute(const DiskOptions& disk, std::string_view name, const std::string& value);

}  // namespace guestio::app
