// SPDX-License-Identifier: MIT
#pragma once

#include <memory>

#include "guestio/disk/rbd/rados_connections.h"
#include "guestio/disk/registry.h"

namespace guestio::disk {

/// The backend of `rbd:` images (RbdUri), over librbd. Settings: RbdSettings.
class RbdFactory final : public DiskFactory {
 public:
  RbdFactory();
  /// Gives closing images a moment: a lock that is released need not be broken.
  ~RbdFactory() override;

  /// Blocks for at most the setting io-timeout.
  OpenResult<std::shared_ptr<Disk>> open(const OpenOptions& options) override;
  OpenResult<std::shared_ptr<Disk>> take_over(const OpenOptions& options,
                                              DiskSnapshot snapshot) override;
  /// Connections to clusters.
  [[nodiscard]] std::size_t connections() const { return connections_.count(); }

 private:
  /// When the disk gets its lock.
  enum class Locking : std::uint8_t { kAtOpen, kLater };
  OpenResult<std::shared_ptr<Disk>> open_with(const OpenOptions& options, Locking locking,
                                              ByteCount served);

  RadosConnections& connections_;
};

}  // namespace guestio::disk
