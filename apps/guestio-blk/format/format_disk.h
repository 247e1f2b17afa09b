// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "apps/guestio-blk/format/format_server.h"
#include "guestio/base/unique_fd.h"
#include "guestio/disk/disk.h"
#include "guestio/disk/registry.h"

namespace guestio::app {

/// An image of another format: the NBD disk of a supervised qemu-storage-daemon.
///
/// Threads: as Disk. A thread of its own reports what happens to the daemon.
class FormatDisk final : public disk::Disk {
 public:
  /// `nbd`: the NBD backend. `options`: as for it, without the URI. Blocks until the daemon serves
  /// the image, or says why not.
  static disk::OpenResult<std::shared_ptr<disk::Disk>> open(disk::DiskFactory& nbd,
                                                            disk::OpenOptions options,
                                                            FormatImage image);
  /// The disk of another process, with its daemon.
  static disk::OpenResult<std::shared_ptr<disk::Disk>> take_over(disk::DiskFactory& nbd,
                                                                 disk::OpenOptions options,
                                                                 FormatImage image,
                                                                 disk::DiskSnapshot snapshot);
  /// Ends the daemon, and waits until the image is closed, unless another process serves the disk.
  ~FormatDisk() override;

  [[nodiscard]] const disk::DiskInfo& info() const noexcept override { return nbd_->info(); }
  Result<std::unique_ptr<disk::Channel>> open_channel(uring::Loop& loop,
                                                      ByteCount bounce_limit) override;
  Result<ByteCount> refresh_size() override;
  void on_size_change(std::move_only_function<void()> changed) override;
  [[nodiscard]] bool needs_one_thread() const noexcept override;
  [[nodiscard]] disk::DiskStatus status() const override;
  Result<> claim() override;
  void release() noexcept override;
  [[nodiscard]] Result<disk::DiskSnapshot> snapshot() const override;
  Result<> restore(disk::DiskSnapshot latest) override;
  /// From now on it watches the daemon, and ends it.
  void on_taken_over() noexcept override;

 private:
  FormatDisk(std::string name, FormatImage image, FormatServer server,
             std::shared_ptr<disk::Disk> nbd);
  Result<> watch();
  void read_messages();
  void handle(const SupervisorMessage& message);
  void replace_server();

  const std::string name_;
  const FormatImage image_;
  const std::shared_ptr<disk::Disk> nbd_;
  mutable std::mutex mutex_;
  FormatServer server_;  // protected by mutex_
  UniqueFd end_;         // eventfd
  std::jthread watcher_;
};

}  // namespace guestio::app
