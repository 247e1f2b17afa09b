// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/failed_disk.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "apps/guestio-blk/open_disk.h"
#include "apps/guestio-blk/options/image_name.h"
#include "guestio/base/log.h"
#include "guestio/uring/awaitables.h"

namespace guestio::app {

namespace {

constexpr std::chrono::seconds kMaxRetryDelay(30);

std::string image_remedy(const Error& error) {
  if (error.kind == ErrorKind::kBusy) {
    return "end the other process that uses it (two writers would destroy it)";
  }
  if (error.kind == ErrorKind::kUnsupported || error.kind == ErrorKind::kInvalidArgument ||
      error.kind == ErrorKind::kMisaligned) {
    return "name another image, or change the disk's options";
  }
  switch (error.host_errno) {
    case ENOENT:
    case ENOTDIR: return "make it, or correct blk-file";
    case EACCES:
    case EPERM:
    case EROFS: return "let the user of this process read and write it, or serve it read-only";
    case EMFILE:
    case ENFILE: return "raise the limit of descriptors (LimitNOFILE=)";
    case ENOMEM:
    case EAGAIN: return "check memory and process limits of this host";
    default: return "check the device or the file system it is on";
  }
}

std::string socket_remedy(const Error& error) {
  if (error.kind == ErrorKind::kBusy) return "end that process, or choose another socket-path";
  if (error.kind == ErrorKind::kTooLarge) return "choose a shorter socket-path";
  if (error.kind == ErrorKind::kUnsupported) return "choose another socket-path, or remove it";
  switch (error.host_errno) {
    case ENOENT:
    case ENOTDIR: return "make its folder, or correct socket-path";
    case EPERM: return "run as root, or leave socket-owner and socket-group out";
    case EACCES:
    case EROFS: return "let the user of this process write to its folder";
    default: return "check what socket-path or fd names";
  }
}

}  // namespace

std::string describe_image_failure(const DiskOptions& options, const Error& error) {
  return fmt::format("{}: {}; {}", options.image, error.to_string(), image_remedy(error));
}

std::string describe_image_failure(const DiskOptions& options, const disk::OpenFailure& failure) {
  if (failure.detail.empty()) return describe_image_failure(options, failure.error);
  return fmt::format("{}: {}", options.image, failure.detail);
}

std::string describe_socket_failure(const DiskOptions& options, const Error& error) {
  return fmt::format("{}: {}; {}", options.place(), error.to_string(), socket_remedy(error));
}

namespace {

/// Empty unless it is a regular file.
std::optional<FileVersion> version_of(const struct stat& status) {
  if (!S_ISREG(status.st_mode)) return std::nullopt;
  return FileVersion{.size = status.st_size,
                     .seconds = status.st_mtim.tv_sec,
                     .nanoseconds = status.st_mtim.tv_nsec};
}

}  // namespace

OpenedImage open_image(const DiskOptions& options) {
  std::optional<ImageIdentity> identity;
  std::optional<FileVersion> version;
  struct stat status{};
  const bool is_file = is_file_image(options.image);
  if (is_file && ::stat(path_of_image(options.image).c_str(), &status) == 0) {
    const bool is_device = S_ISBLK(status.st_mode);
    identity = ImageIdentity{.is_device = is_device,
                             .device = is_device ? status.st_rdev : status.st_dev,
                             .inode = is_device ? 0 : status.st_ino};
    version = version_of(status);
  }
  return {.disk = open_disk(options), .identity = identity, .version = version};
}

namespace {

/// Opens the image unless it is a file with another version than `before`.
OpenedImage open_unchanged_image(const DiskOptions& options,
                                 const std::optional<FileVersion>& before) {
  OpenedImage opening = open_image(options);
  if (opening.disk && opening.version && opening.version != before) {
    const Error error = Error::make(ErrorKind::kBusy, "open an image that may still be written");
    opening.disk = std::unexpected(disk::OpenFailure{error, {}});
    opening.may_be_written = true;
  }
  // Probes of FileDisk::open() change the time of the file.
  struct stat status{};
  if (opening.version && ::stat(path_of_image(options.image).c_str(), &status) == 0) {
    opening.version = version_of(status);
  }
  return opening;
}

}  // namespace

task::Task<std::unique_ptr<ServedDisk>> FailedDisk::retry_until_served(
    uring::Loop& loop, vhost::QueueThreads& threads, std::function<bool()> is_blocked,
    task::StopToken stop) {
  while (!stop.stop_requested()) {
    if (!opening_ && !listening_) {
      co_await wait_for_retry(loop, stop);
      if (is_blocked()) continue;
      ++attempts_;
    }
    bool is_open = disk_ != nullptr;
    if (!is_open) {
      is_open = co_await open(loop, stop);
    }
    if (!is_open) continue;
    const bool has_socket = co_await listen(loop, stop);
    std::shared_ptr<disk::Disk> opened = std::exchange(disk_, nullptr);
    if (!has_socket || is_blocked()) {
      socket_.reset();
      continue;
    }
    auto disk = ServedDisk::create(loop, threads, options_, std::move(opened));
    if (!disk) {
      socket_.reset();
      fail_attempt(describe_image_failure(options_, disk.error()));
      continue;
    }
    (*disk)->take_socket(std::move(*socket_));
    socket_.reset();
    co_return std::move(*disk);
  }
  co_return nullptr;
}

/// Returns whether disk_ is open.
task::Task<bool> FailedDisk::open(uring::Loop& loop, task::StopToken stop) {
  if (!opening_) {
    const bool is_requested = std::exchange(is_retry_requested_, false);
    auto started =
        Background<OpenedImage>::start([options = options_, before = version_, is_requested] {
          return is_requested ? open_image(options) : open_unchanged_image(options, before);
        });
    if (!started) {
      fail_attempt(describe_image_failure(options_, started.error()));
      co_return false;
    }
    opening_.emplace(std::move(*started));
  }
  if (co_await uring::poll(loop, uring::File(opening_->fd()), POLLIN, stop) <= 0) co_return false;
  OpenedImage opened = opening_->take();
  opening_.reset();
  version_ = opened.version;
  if (opened.may_be_written) {
    delay_ = std::chrono::seconds(1);
    if (std::exchange(was_image_open_, false)) co_return false;
    fail_attempt(
        fmt::format("{}: it has changed since the last attempt and may still be written; "
                    "wait until it is complete",
                    options_.image));
    co_return false;
  }
  if (!opened.disk) {
    fail_attempt(describe_image_failure(options_, opened.disk.error()));
    co_return false;
  }
  disk_ = std::move(*opened.disk);
  co_return true;
}

/// Returns whether socket_ is open.
task::Task<bool> FailedDisk::listen(uring::Loop& loop, task::StopToken stop) {
  if (!listening_) {
    auto started = Background<Result<ServedDisk::Socket>>::start(
        [options = options_] { return ServedDisk::open_socket(options); });
    if (!started) {
      fail_attempt(describe_socket_failure(options_, started.error()));
      co_return false;
    }
    listening_.emplace(std::move(*started));
  }
  if (co_await uring::poll(loop, uring::File(listening_->fd()), POLLIN, stop) <= 0) co_return false;
  auto socket = listening_->take();
  listening_.reset();
  if (!socket) {
    fail_attempt(describe_socket_failure(options_, socket.error()));
    co_return false;
  }
  socket_.emplace(std::move(*socket));
  co_return true;
}

task::Task<> FailedDisk::wait_for_retry(uring::Loop& loop, task::StopToken stop) {
  waiting_.emplace(stop);
  const std::int32_t slept = co_await uring::sleep(loop, delay_, waiting_->token());
  waiting_.reset();
  // A request for an attempt resets the delay.
  delay_ = slept == 0 ? std::min(2 * delay_, kMaxRetryDelay) : std::chrono::seconds(1);
}

void FailedDisk::retry_now() noexcept {
  is_retry_requested_ = true;
  if (waiting_) waiting_->request_stop();
}

/// Logs the cause unless it is that of the last attempt.
void FailedDisk::fail_attempt(std::string cause) {
  if (cause != cause_) log::error("disk {}: cannot be served: {}", name(), cause);
  cause_ = std::move(cause);
}

}  // namespace guestio::app
