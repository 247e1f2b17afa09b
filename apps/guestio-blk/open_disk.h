// SPDX-License-Identifier: MIT
#pragma once

#include <memory>

#include "apps/guestio-blk/options/disk_options.h"
#include "guestio/disk/disk.h"

namespace guestio::app {

/// Opens the disk that --blk-file names: an image on the host, or `null:SIZE` (disk::NullDisk).
/// May block. Errors: of disk::FileDisk::open() and disk::NullDisk::create(); invalid argument (no
/// size).
Result<std::shared_ptr<disk::Disk>> open_disk(const DiskOptions& options);

/// Opens the disk of another process from its snapshot. Errors: of disk::FileDisk::take_over(), and
/// of open_disk().
Result<std::shared_ptr<disk::Disk>> take_over_disk(const DiskOptions& options,
                                                   disk::DiskSnapshot snapshot);

}  // namespace guestio::app
