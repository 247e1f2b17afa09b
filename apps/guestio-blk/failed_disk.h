// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "apps/guestio-blk/background.h"
#include "apps/guestio-blk/options/disk_options.h"
#include "apps/guestio-blk/served_disk.h"
#include "guestio/disk/registry.h"
#include "guestio/task/stop.h"
#include "guestio/task/task.h"
#include "guestio/uring/loop.h"
#include "guestio/vhost/ring/queue_thread.h"

namespace guestio::app {

/// Cause and remedy of a disk that cannot be served: "IMAGE: open the image: No such file or
/// directory; ...".
std::string describe_image_failure(const DiskOptions& options, const Error& error);
std::string describe_image_failure(const DiskOptions& options, const disk::OpenFailure& failure);
std::string describe_socket_failure(const DiskOptions& options, const Error& error);

/// Identity of an image, independent of its path.
struct ImageIdentity {
  bool is_device = false;
  std::uint64_t device = 0;  ///< a block device's own number, or that of a file's file system
  std::uint64_t inode = 0;   ///< 0 for a block device
  friend bool operator==(const ImageIdentity&, const ImageIdentity&) = default;
};

/// Version of a file: every write changes it.
struct FileVersion {
  std::int64_t size = 0;
  std::int64_t seconds = 0;
  std::int64_t nanoseconds = 0;
  friend bool operator==(const FileVersion&, const FileVersion&) = default;
};

/// The result of opening an image.
struct OpenedImage {
  disk::OpenResult<std::shared_ptr<disk::Disk>> disk;
  std::optional<ImageIdentity> identity;
  std::optional<FileVersion> version;  ///< of a regular file, before it was opened
  bool may_be_written = false;         ///< not open: the version has changed
};
OpenedImage open_image(const DiskOptions& options);

/// A disk that cannot be served. It is retried until it can: after 1 s, with delays that double up
/// to 30 s. A file that changed since the last attempt may still be written (cp, dd and curl take
/// no locks): the next attempt, after 1 s, serves it if it is unchanged. An attempt on request
/// serves it regardless. Its socket does not exist before: front-ends that reconnect wait.
///
/// Blocking steps (opening the image, probing the socket path) run on threads of their own and
/// delay neither other disks nor the control thread.
///
/// Threads: the control thread.
class FailedDisk {
 public:
  FailedDisk(DiskOptions options, std::string cause)
      : options_(std::move(options)), cause_(std::move(cause)) {}

  [[nodiscard]] const std::string& name() const noexcept { return options_.name; }
  [[nodiscard]] const DiskOptions& options() const noexcept { return options_; }
  [[nodiscard]] const std::string& cause() const noexcept { return cause_; }
  [[nodiscard]] std::uint64_t attempts() const noexcept { return attempts_; }

  /// Its image was open before: a second look at its version is not logged.
  void set_image_was_open() noexcept { was_image_open_ = true; }
  /// Continues attempts that have begun.
  void resume_attempt(Background<OpenedImage> opening) { opening_.emplace(std::move(opening)); }
  void resume_attempt(std::shared_ptr<disk::Disk> disk,
                      Background<Result<ServedDisk::Socket>> listening) {
    disk_ = std::move(disk);
    listening_.emplace(std::move(listening));
  }

  /// Retries until the disk can be served; returns nullptr after `stop`. While `is_blocked()`,
  /// attempts have no effect.
  task::Task<std::unique_ptr<ServedDisk>> retry_until_served(uring::Loop& loop,
                                                             vhost::QueueThreads& threads,
                                                             std::function<bool()> is_blocked,
                                                             task::StopToken stop);
  /// Starts the next attempt at once.
  void retry_now() noexcept;

 private:
  task::Task<bool> open(uring::Loop& loop, task::StopToken stop);
  task::Task<bool> listen(uring::Loop& loop, task::StopToken stop);
  task::Task<> wait_for_retry(uring::Loop& loop, task::StopToken stop);
  void fail_attempt(std::string cause);

  const DiskOptions options_;
  std::string cause_;
  std::uint64_t attempts_ = 1;
  std::chrono::seconds delay_ = std::chrono::seconds(1);
  std::optional<task::StopSource> waiting_;  // while retry_until_served() waits
  std::optional<FileVersion> version_;       // of the image at the last attempt
  bool was_image_open_ = false;
  bool is_retry_requested_ = false;  // for the next attempt
  // The attempt under way.
  std::optional<Background<OpenedImage>> opening_;
  std::shared_ptr<disk::Disk> disk_;
  std::optional<Background<Result<ServedDisk::Socket>>> listening_;
  std::optional<ServedDisk::Socket> socket_;
};

}  // namespace guestio::app
