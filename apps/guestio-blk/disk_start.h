// SPDX-License-Identifier: MIT
#pragma once

#include <expected>
#include <memory>
#include <vector>

#include "failed_disk.h"
#include "guestio/vhost/session/memory_table.h"
#include "options/options.h"
#include "served_disk.h"

namespace guestio::app {

/// One disk's way from its options to being served, as far as it has come.
struct StartingDisk {
  DiskOptions options;
  std::shared_ptr<disk::Disk> disk;    ///< empty: it has failed
  std::unique_ptr<FailedDisk> failed;  ///< instead
};

/// Opens the images of all disks side by side. One that fails, or does not come for some seconds,
/// is there as failed, if another one is open: with --strict, or when none is open, all that is
/// wrong is printed, and the error is the exit status.
std::expected<std::vector<StartingDisk>, int> open_images(const Options& options);

/// The disks of the process.
struct Disks {
  std::vector<std::unique_ptr<ServedDisk>> served;
  std::vector<std::unique_ptr<FailedDisk>> failed;
  std::size_t memory_slots = vhost::kMaxMemorySlots;  ///< what each offers
};

/// The last step: the sockets of all that is served. As of open_images(): returns 0, or the exit
/// status; no socket is left then.
int open_sockets(const Options& options, Disks& disks);

/// Prints why each failed disk cannot be served. Returns kExitUsage.
int report_failed(std::span<const std::unique_ptr<FailedDisk>> failed);

}  // namespace guestio::app
