// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "apps/guestio-blk/held_requests.h"
#include "apps/guestio-blk/options/disk_options.h"
#include "guestio/base/unix_listener.h"
#include "guestio/blk/block_device.h"
#include "guestio/blk/block_queue.h"
#include "guestio/disk/disk.h"
#include "guestio/task/task.h"
#include "guestio/uring/loop.h"
#include "guestio/vhost/ring/queue_thread.h"
#include "guestio/vhost/session/backend.h"

namespace guestio::app {

/// One disk of the process: image, device, queues and socket. Session, bounce memory and log limits
/// are its own: faults of the disk or its front-end affect no other disk.
///
/// Threads: the control thread, which runs `home`. Lifetime: `home` and `threads` outlive it.
class ServedDisk {
 public:
  /// Makes everything but the socket. Errors: host (memory, descriptors, rings).
  static Result<std::unique_ptr<ServedDisk>> create(uring::Loop& home, vhost::QueueThreads& threads,
                                                    const DiskOptions& options,
                                                    std::shared_ptr<disk::Disk> disk);
  ~ServedDisk();
  ServedDisk(const ServedDisk&) = delete;
  ServedDisk& operator=(const ServedDisk&) = delete;

  /// Checks that an inherited descriptor, if any, is a socket. Errors: host.
  static Result<> check_descriptor(const DiskOptions& options);
  /// The socket for front-ends: listening, or inherited and connected.
  using Socket = std::variant<UnixListener, UniqueFd>;
  /// Opens the socket: front-ends can connect, and wait. May block for some seconds. Any thread.
  /// The result is a duplicate of an inherited descriptor, which stays open. Errors: those of
  /// UnixListener; host (the inherited descriptor is not a socket).
  static Result<Socket> open_socket(const DiskOptions& options);
  /// The last step. Closes the inherited descriptor.
  void take_socket(Socket socket);
  /// The same with the listening socket of another process.
  void adopt_socket(UnixListener listener) { listener_.emplace(std::move(listener)); }
  /// Removes the socket path, if it is still bound to this socket.
  void remove_socket() noexcept {
    if (listener_) listener_->remove();
  }
  /// Serves until stop(), or until the front-end of a connected socket disconnects. Once, after
  /// take_socket(). Errors: host (the socket fails).
  task::Task<Result<>> serve();
  /// Drains requests in flight; serve() returns then.
  void stop() noexcept { backend_->stop(); }
  /// Rereads the size of the image. Makes new sectors available and tells the guest. Returns the
  /// size. Errors: unsupported (a disk without a file; a shrunk image, which changes nothing),
  /// misaligned, host.
  Result<ByteCount> refresh_size();
  /// The limits of its group have changed. Returns at once.
  void on_limits_changed();
  /// Applies a decision to all held requests. Returns at once.
  void decide(HeldRequests::Decision decision) { held_.decide(decision); }

  [[nodiscard]] const std::string& name() const noexcept { return options_.name; }
  /// Path or descriptor of its socket, for diagnostics only.
  [[nodiscard]] std::string place() const { return options_.place(); }
  [[nodiscard]] const DiskOptions& options() const noexcept { return options_; }
  [[nodiscard]] const disk::DiskInfo& info() const noexcept { return device_.disk(); }
  [[nodiscard]] const vhost::Backend& backend() const noexcept { return *backend_; }
  [[nodiscard]] vhost::Backend& backend() noexcept { return *backend_; }
  [[nodiscard]] blk::BlockDevice& device() noexcept { return device_; }
  [[nodiscard]] const std::shared_ptr<disk::Disk>& disk() const noexcept { return disk_; }
  /// Nullptr with a connected socket.
  [[nodiscard]] const UnixListener* listener() const noexcept {
    return listener_ ? &*listener_ : nullptr;
  }
  /// The disk ID for the guest.
  [[nodiscard]] std::string serial() const;
  /// In the order of the backend.
  [[nodiscard]] std::span<const blk::BlockQueue* const> queues() const noexcept { return queues_; }

 private:
  ServedDisk(DiskOptions options, std::shared_ptr<disk::Disk> disk);
  void watch_size(uring::Loop& home);

  const DiskOptions options_;
  const std::shared_ptr<disk::Disk> disk_;
  blk::BlockDevice device_;
  std::vector<const blk::BlockQueue*> queues_;
  HeldRequests held_;
  struct QueueOfLoop {
    uring::Loop* loop;
    blk::BlockQueue* queue;
  };
  std::vector<QueueOfLoop> throttled_;
  std::unique_ptr<vhost::Backend> backend_;
  std::optional<UnixListener> listener_;
  UniqueFd connected_;  // an inherited connection, without listener_
  // Set while a server may announce sizes: cleared at the end, on the control thread.
  std::shared_ptr<ServedDisk*> announced_to_;
};

}  // namespace guestio::app
