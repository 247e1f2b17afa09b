// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "guestio/disk/nbd/nbd_connector.h"
#include "guestio/disk/nbd/nbd_export.h"
#include "guestio/disk/nbd/nbd_link.h"
#include "guestio/disk/nbd/nbd_recovery.h"
#include "guestio/disk/nbd/nbd_status.h"
#include "guestio/disk/nbd/nbd_target.h"
#include "guestio/disk/remote/remote_channel.h"
#include "guestio/disk/remote/remote_disk.h"

namespace guestio::disk {

/// An export of an NBD server. Each channel has a connection, if the server promises that a flush
/// covers the writes of all; else the channels share one and are of one loop.
///
/// A server with a write-back cache may lose acknowledged writes that were not flushed, and NBD has
/// no means to ask: they are kept here, and sent again after each loss of a connection.
///
/// Threads, lifetime: as Disk; the channels as NbdLink.
class NbdDisk final : public RemoteDisk {
 public:
  /// Connects. Blocks up to `target.io_timeout` and `limit`. Errors: of connect_to_nbd_server() and
  /// shape_nbd_disk().
  static OpenResult<std::unique_ptr<NbdDisk>> open(const NbdTarget& target,
                                                   const OpenOptions& options,
                                                   std::chrono::milliseconds limit);
  /// As open(), without waiting for the server: it was away from the process that served the disk.
  /// Errors: of shape_nbd_disk().
  static OpenResult<std::unique_ptr<NbdDisk>> resume(const NbdTarget& target,
                                                     const OpenOptions& options,
                                                     const NbdExport& facts);

  Result<std::unique_ptr<Channel>> open_channel(uring::Loop& loop, ByteCount bounce_limit) override;
  [[nodiscard]] bool needs_one_thread() const noexcept override { return !facts_.can_multi_conn; }
  [[nodiscard]] DiskStatus status() const override { return status_.get(); }
  /// Errors: busy (unflushed writes are being sent again), host.
  [[nodiscard]] Result<DiskSnapshot> snapshot() const override;
  Result<> restore(DiskSnapshot latest) override;

 private:
  NbdDisk(NbdTarget target, const OpenOptions& options, const NbdShape& shape, NbdOpened opened);

  /// Why an export of the returned server is not this disk; announces growth. Any thread.
  std::optional<std::string> check(const NbdExport& present);
  std::shared_ptr<NbdLink> make_link(uring::Loop& loop);

  const NbdTarget target_;
  const NbdExport facts_;  // at open
  NbdStatus status_;
  mutable NbdRecovery recovery_;
  std::mutex mutex_;
  // protected by mutex_
  NbdHandle first_;                // of open(), for the first link; empty after resume()
  std::weak_ptr<NbdLink> shared_;  // of a server that takes one connection
};

/// One thread's channel to an NbdDisk.
class NbdChannel final : public RemoteChannel, private NbdLink::Subscriber {
 public:
  NbdChannel(RemoteDisk& disk, uring::Loop& loop, buf::OpenBounceAccount bounce,
             std::shared_ptr<NbdLink> link);

 private:
  void submit(RemoteCommand& command) noexcept override { link_->submit(command); }
  void on_connected() override { notify_available(); }

  const std::shared_ptr<NbdLink> link_;
};

}  // namespace guestio::disk
