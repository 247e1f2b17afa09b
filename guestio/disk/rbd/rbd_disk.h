// SPDX-License-Identifier: MIT
#pragma once

#include <memory>

#include "guestio/disk/rbd/rbd_session.h"
#include "guestio/disk/remote/remote_disk.h"

namespace guestio::disk {

/// An image of a Ceph cluster.
///
/// Its lock is held while the disk is open, or, with OpenOptions::is_claimed_in_use, from claim()
/// to release(). Both only start the change: requests wait until the lock is owned, for as long as
/// another client keeps it. So the destination of a live migration may claim before the source has
/// released.
///
/// Writes are durable when they complete (librbd's cache is off).
class RbdDisk final : public RemoteDisk {
 public:
  /// `session` is started here. `served`: the size that the guest knows; 0: the present one.
  static OpenResult<std::shared_ptr<RbdDisk>> make(const OpenOptions& options,
                                                   std::shared_ptr<RbdSession> session,
                                                   const RbdImage& image, ByteCount served);
  ~RbdDisk() override;

  Result<std::unique_ptr<Channel>> open_channel(uring::Loop& loop, ByteCount bounce_limit) override;
  [[nodiscard]] DiskStatus status() const override;
  Result<> claim() override;
  void release() noexcept override;
  [[nodiscard]] Result<DiskSnapshot> snapshot() const override;
  Result<> restore(DiskSnapshot latest) override;

 private:
  RbdDisk(const OpenOptions& options, std::shared_ptr<RbdSession> session, const DiskInfo& info,
          const RemoteLimits& limits);

  const std::shared_ptr<RbdSession> session_;
  const bool is_claimed_in_use_;
};

}  // namespace guestio::disk
