// SPDX-License-Identifier: MIT
#pragma once

#include <memory>

#include "guestio/disk/registry.h"

namespace guestio::disk {

/// Disks of NBD servers. The claim of a disk is the server's business.
class NbdFactory final : public DiskFactory {
 public:
  OpenResult<std::shared_ptr<Disk>> open(const OpenOptions& options) override;
  /// By a connection of its own. Errors: as open(); unsupported (the export has shrunk).
  OpenResult<std::shared_ptr<Disk>> take_over(const OpenOptions& options,
                                              DiskSnapshot snapshot) override;
};

}  // namespace guestio::disk
