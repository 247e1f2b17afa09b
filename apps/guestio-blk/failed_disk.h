// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "background.h"
#include "guestio/task/stop.h"
#include "guestio/task/task.h"
#include "guestio/uring/loop.h"
#include "guestio/vhost/ring/queue_thread.h"
#include "options/disk_options.h"
#include "served_disk.h"

namespace guestio::app {

/// Why a disk cannot be served, and what an operator can do: "IMAGE: open the image: No such file
/// or directory; ...".
std::string describe_image_failure(const DiskOptions& options, const Error& error);
std::string describe_socket_failure(const DiskOptions& options, const Error& error);

/// Which file an image is, by whatever path.
struct ImageIdentity {
  bool is_device = false;
  std::uint64_t device = 0;  ///< a block device's own number, or that of a file's file system
  std::uint64_t inode = 0;   ///< 0 for a block device
  friend bool operator==(const ImageIdentity&, const ImageIdentity&) = default;
};

/// What changes when somebody writes to a file.
struct FileVersion {
  std::int64_t size = 0;
  std::int64_t seconds = 0;
  std::int64_t nanoseconds = 0;
  friend bool operator==(const FileVersion&, const FileVersion&) = default;
};

/// An image that was opened, or not.
struct OpenedImage {
  Result<std::shared_ptr<disk::Disk>> disk;
  std::optional<ImageIdentity> identity;
  std::optional<FileVersion> version;  ///< of a regular file, before it was opened
  bool may_be_written = false;         ///< why it is not open: it was another version before
};
OpenedImage open_image(const DiskOptions& options);

/// A disk of the process that cannot be served, and is tried again until it can: after 1 s, and
/// ever later up to 30 s. A file that was not the same at the attempt before may still be written
/// (cp, dd and curl take no locks): the next attempt, after 1 s, serves it if it stays as it is, or
/// one that was asked for. Its socket does not exist before: front-ends that reconnect wait.
///
/// What may block (opening its image, looking who has its socket) runs on threads of its own:
/// other disks and the control thread wait for nothing.
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

  /// Its image is not the cause: that it has to be looked at twice is no news.
  void set_image_was_open() noexcept { was_image_open_ = true; }
  /// Attempts that have begun already, and are waited for instead of beginning anew.
  void resume_attempt(Background<OpenedImage> opening) { opening_.emplace(std::move(opening)); }
  void resume_attempt(std::shared_ptr<disk::Disk> disk,
                      Background<Result<ServedDisk::Socket>> listening) {
    disk_ = std::move(disk);
    listening_.emplace(std::move(listening));
  }

  /// Tries until the disk can be served; nullptr when `stop` comes first. While `is_held` nothing
  /// comes of an attempt.
  task::Task<std::unique_ptr<ServedDisk>> retry_until_served(uring::Loop& loop,
                                                             vhost::QueueThreads& threads,
                                                             std::function<bool()> is_blocked,
                                                             task::StopToken stop);
  /// Does not wait any longer before the next attempt.
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
  std::optional<task::StopSource> waiting_;  // while bring_up() waits
  std::optional<FileVersion> version_;       // of its image at the last attempt
  bool was_image_open_ = false;
  bool is_retry_requested_ = false;  // for the attempt that comes next
  // The attempt under way.
  std::optional<Background<OpenedImage>> opening_;
  std::shared_ptr<disk::Disk> disk_;
  std::optional<Background<Result<ServedDisk::Socket>>> listening_;
  std::optional<ServedDisk::Socket> socket_;
};

}  // namespace guestio::app
