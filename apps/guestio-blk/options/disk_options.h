// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <expected>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "guestio/base/units.h"
#include "guestio/base/unix_listener.h"
#include "guestio/blk/failure_policy.h"
#include "guestio/buf/bounce_buffer_tracker.h"
#include "guestio/disk/file/file_disk.h"
#include "options/diagnostics.h"

namespace guestio::app {

/// What is registered with the kernel's rings.
enum class FixedBuffers : std::uint8_t {
  kAuto,  ///< bounce memory, and guest memory that is all there, where locking is not limited
  kOn,    ///< all, bringing in what is not there
  kOff,
};

/// What is asked for one disk.
struct DiskOptions {
  std::string name;              ///< in log lines and answers; not empty once all was read
  std::string socket_path;       ///< empty when `socket_fd` is given
  std::optional<int> socket_fd;  ///< a socket handed down, listening or connected
  SocketAccess socket_access;    ///< of the socket at `socket_path`
  std::string image;
  std::string serial;  ///< empty: derived from the image's path
  std::uint16_t queues = 1;
  std::uint32_t max_ranges = 1;  ///< in one discard or write-zeroes request
  ByteCount block_size = ByteCount(512);
  ByteCount bounce_limit = buf::BounceBufferTracker::kDefaultLimit;  ///< for each queue
  bool is_read_only = false;
  bool is_buffered = false;
  bool is_known_raw = false;    ///< format=raw: whatever its first and last bytes look like
  bool has_packed_ring = true;  ///< is offered
  bool has_post_copy = false;   ///< is offered, to a trusted front-end
  FixedBuffers fixed_buffers = FixedBuffers::kAuto;
  bool polls_device = false;  ///< iopoll
  blk::OnError on_error = blk::OnError::kReport;
  disk::ClaimMode claim_mode = disk::ClaimMode::kWhileOpen;
  /// All of that in words, as set_disk_option() took them.
  std::vector<std::pair<std::string, std::string>> as_given;

  /// Where that was said: "--disk 2", "/etc/guestio.toml:12", or empty for the options of the
  /// command line; and where single settings were, if that is known more closely.
  std::string origin;
  std::map<std::string, std::string, std::less<>> origins;

  /// The subject of its log lines: "disk NAME".
  [[nodiscard]] std::string label() const { return "disk " + name; }
  /// Where it is served, for people.
  [[nodiscard]] std::string place() const;
  /// Where `setting` was said, or is missing, for complaints.
  [[nodiscard]] std::string origin_of(std::string_view setting) const;
};

inline constexpr std::uint16_t kMaxQueues = 64;

/// Nothing, or what is wrong in a few words that follow the name of what they are about.
using Diagnostic = std::expected<void, std::string>;

/// One thing that can be said about a disk: an option of the command line, a key of --disk and of
/// the configuration file, by the same name and with the same values everywhere.
struct DiskSetting {
  const char* name;
  const char* help;
  bool is_switch;  ///< on or off; without a value it is on
  Diagnostic (*set)(DiskOptions& disk, std::string_view value);
  const char* type = "on|off";  ///< of its value, as --help shows it
};

/// All there are, in the order of --help.
[[nodiscard]] std::span<const DiskSetting> disk_settings() noexcept;

[[nodiscard]] std::vector<std::string> disk_setting_names();

/// Changes `disk` as one of disk_settings() says. The complaint names the setting.
Diagnostic set_disk_option(DiskOptions& disk, std::string_view name, std::string_view value);

/// Reads "socket-path=/run/a.sock,blk-file=/a.raw,read-only=on". As in QEMU's options a comma in a
/// value is written twice. `origin`: where the text stands.
DiskOptions parse_disk(std::string_view text, std::string origin, Diagnostics& diagnostics);

/// What must hold for one disk by itself.
void check_disk(const DiskOptions& disk, Diagnostics& diagnostics);

}  // namespace guestio::app
