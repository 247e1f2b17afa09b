// SPDX-License-Identifier: MIT
#pragma once

#include <expected>
#include <memory>
#include <vector>

#include "apps/guestio-blk/failed_disk.h"
#include "apps/guestio-blk/options/options.h"
#include "apps/guestio-blk/served_disk.h"
#include "guestio/vhost/session/memory_table.h"

namespace guestio::app {

/// A disk before it is served: its image is open, or it has failed.
struct StartingDisk {
  DiskOptions options;
  std::shared_ptr<disk::Disk> disk;    ///< empty for a failed disk
  std::unique_ptr<FailedDisk> failed;  ///< set without `disk`
};

/// Opens the images of all disks in parallel. A disk that fails, or takes longer than 2 s, is
/// failed if another one is open. With --strict, or without an open image, all causes are printed,
/// and the error is the exit status.
std::expected<std::vector<StartingDisk>, int> open_images(const Options& options);

/// The disks of the process.
struct Disks {
  std::vector<std::unique_ptr<ServedDisk>> served;
  std::vector<std::unique_ptr<FailedDisk>> failed;
  std::size_t memory_slots = vhost::kMaxMemorySlots;  ///< offered by each disk
};

/// The last step: opens the sockets of all served disks, with the rules of open_images(). Returns
/// 0, or the exit status; all sockets are closed then.
int open_sockets(const Options& options, Disks& disks);

/// Prints the cause of each failed disk. Returns kExitUsage.
int report_failed(std::span<const std::unique_ptr<FailedDisk>> failed);

}  // namespace guestio::app
