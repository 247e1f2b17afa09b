// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "guestio/base/unix_listener.h"
#include "guestio/blk/block_device.h"
#include "guestio/blk/block_queue.h"
#include "guestio/disk/disk.h"
#include "guestio/task/task.h"
#include "guestio/uring/loop.h"
#include "guestio/vhost/ring/queue_thread.h"
#include "guestio/vhost/session/backend.h"
#include "held_requests.h"
#include "options/disk_options.h"

namespace guestio::app {

/// One disk of the process: its image, device, queues and socket. It has its own session, bounce
/// memory and log limits; what goes wrong with it, or with its front-end, stays its own affair.
///
/// Threads: the control thread, which runs `home`. Lifetime: `home` and `threads` outlive it.
class ServedDisk {
 public:
  /// Makes all but the socket. Errors: host (memory, descriptors, rings).
  static Result<std::unique_ptr<ServedDisk>> create(uring::Loop& home, vhost::QueueThreads& threads,
                                                    const DiskOptions& options,
                                                    std::shared_ptr<disk::Disk> disk);
  ServedDisk(const ServedDisk&) = delete;
  ServedDisk& operator=(const ServedDisk&) = delete;

  /// Ok when there is no descriptor handed down, or it is a socket. Errors: host.
  static Result<> check_descriptor(const DiskOptions& options);
  /// Where its front-ends come from: a listening socket, or a connected one that was handed down.
  using Socket = std::variant<UnixListener, UniqueFd>;
  /// From here on front-ends can come, and wait. May block for some seconds; any thread. Errors:
  /// those of vhost::Listener; host (a descriptor handed down that is no socket). Such a descriptor
  /// stays open: the socket is a copy.
  static Result<Socket> open_socket(const DiskOptions& options);
  /// The last step. Closes the descriptor that was handed down.
  void take_socket(Socket socket);
  /// Instead, where another process listened.
  void adopt_socket(UnixListener listener) { listener_.emplace(std::move(listener)); }
  /// Removes its path, if that is still its own.
  void remove_socket() noexcept {
    if (listener_) listener_->remove();
  }
  /// Serves until stop(), or on a connected socket until the front-end leaves. Once, after
  /// take_socket(). Errors: host, when the socket itself fails.
  task::Task<Result<>> serve();
  /// Finishes what is in flight; serve() then returns.
  void stop() noexcept { backend_->stop(); }
  /// Looks how large the image is now. If it has grown, the guest can use what is new, and is told.
  /// Returns the size. Errors: unsupported (a disk that has no file; one that shrank, which is left
  /// as it is), misaligned, host.
  Result<ByteCount> refresh_size();
  /// What is to become of requests that wait for the disk. Returns at once.
  void decide(HeldRequests::Decision decision) { held_.decide(decision); }

  [[nodiscard]] const std::string& name() const noexcept { return options_.name; }
  /// Where its socket is, for people.
  [[nodiscard]] std::string place() const { return options_.place(); }
  [[nodiscard]] const DiskOptions& options() const noexcept { return options_; }
  [[nodiscard]] const disk::DiskInfo& info() const noexcept { return device_.disk(); }
  [[nodiscard]] const vhost::Backend& backend() const noexcept { return *backend_; }
  [[nodiscard]] vhost::Backend& backend() noexcept { return *backend_; }
  [[nodiscard]] blk::BlockDevice& device() noexcept { return device_; }
  [[nodiscard]] const std::shared_ptr<disk::Disk>& disk() const noexcept { return disk_; }
  /// Or nullptr: it has a connection only.
  [[nodiscard]] const UnixListener* listener() const noexcept {
    return listener_ ? &*listener_ : nullptr;
  }
  /// What the guest reads as the disk's ID.
  [[nodiscard]] std::string serial() const;
  /// In the order of the backend's.
  [[nodiscard]] std::span<const blk::BlockQueue* const> queues() const noexcept { return queues_; }

 private:
  ServedDisk(DiskOptions options, std::shared_ptr<disk::Disk> disk);

  const DiskOptions options_;
  const std::shared_ptr<disk::Disk> disk_;
  blk::BlockDevice device_;
  std::vector<const blk::BlockQueue*> queues_;
  HeldRequests held_;
  std::unique_ptr<vhost::Backend> backend_;
  std::optional<UnixListener> listener_;
  UniqueFd connected_;  // instead, if the socket handed down is one
};

}  // namespace guestio::app
