// SPDX-License-Identifier: MIT
#pragma once

#include <memory>

#include "apps/guestio-blk/options/disk_options.h"
#include "guestio/disk/disk.h"
#include "guestio/disk/registry.h"

namespace guestio::app {

/// Opens the disk that --blk-file names: an image on the host, `null:SIZE` (disk::NullDisk),
/// `ram:SIZE` (disk::RamDisk), or the URI of a module (disk::DiskRegistry). May block. Errors:
/// those of the backend; invalid argument (no size); unsupported (no such backend).
disk::OpenResult<std::shared_ptr<disk::Disk>> open_disk(const DiskOptions& options);

/// Opens the disk of another process from its snapshot. Errors: those of the backend, and of
/// open_disk().
disk::OpenResult<std::shared_ptr<disk::Disk>> take_over_disk(const DiskOptions& options,
                                                             disk::DiskSnapshot snapshot);

/// Settings of all disks of backends that know them, such as "rados-images-per-connection". Once,
/// before the first disk.
void set_backend_defaults(std::map<std::string, std::string, std::less<>> defaults);

}  // namespace guestio::app
