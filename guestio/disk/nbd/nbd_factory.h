// SPDX-License-Identifier: MIT
#pragma once

#include <memory>

#include "guestio/disk/registry.h"

namespace guestio::disk {

/// Disks of NBD servers. The claim of a disk is the server's business.
class NbdFactory final : public DiskFactory {
 public:
  OpenResult<std::shared_ptr<Disk>> open(const OpenOptions& options) override;
  /// By a connection of its own, which takes at most 5 s. A server that is away from the other
  /// process is not waited for. Errors: as open(); unsupported (the export has shrunk); invalid
  /// argument (the snapshot).
  OpenResult<std::shared_ptr<Disk>> take_over(const OpenOptions& options,
                                              DiskSnapshot snapshot) override;
};

}  // namespace guestio::disk
