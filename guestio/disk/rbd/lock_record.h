// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "guestio/base/error.h"

namespace guestio::disk {

/// Who owns the exclusive lock of an image: a client of the cluster and the process behind it. In a
/// file beside the disk's socket it tells the next process whose lock it finds; in a takeover it
/// tells the successor.
struct LockRecord {
  std::string address;  ///< as locks name it: "10.0.0.1:0/1234"
  std::uint64_t pid = 0;
  std::uint64_t start = 0;    ///< of the process, in ticks since the boot
  std::string boot;           ///< the kernel's boot id
  std::string pid_namespace;  ///< in which `pid` counts

  /// Of this process.
  static LockRecord of_process(std::string address);
  static std::optional<LockRecord> from_text(std::string_view text);
  [[nodiscard]] std::string to_text() const;

  /// The process has certainly ended. False for what cannot be seen from here: processes of another
  /// pid namespace, of another host, and of the time before a reboot.
  [[nodiscard]] bool is_gone() const;

  friend bool operator==(const LockRecord&, const LockRecord&) = default;
};

/// The file of records: the latest process that wanted the lock comes first. The others may own it
/// still: a process writes its record before it acquires the lock, and drops theirs after that.
using LockRecords = std::vector<LockRecord>;

/// The records in `path`; none without a readable file.
[[nodiscard]] LockRecords load_records(const std::string& path);
/// Replaces the file in one step, or removes it if there are no records. Errors: host.
[[nodiscard]] Result<> save_records(const LockRecords& records, const std::string& path);

}  // namespace guestio::disk
