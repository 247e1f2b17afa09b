// SPDX-License-Identifier: MIT
#include "guestio/disk/rbd/rbd_factory.h"

#include <fmt/format.h>
#include <rbd/features.h>

#include <chrono>
#include <utility>

#include "guestio/base/log.h"
#include "guestio/disk/rbd/helper_threads.h"
#include "guestio/disk/rbd/rbd_disk.h"

namespace guestio::disk {

namespace {

constexpr std::chrono::milliseconds kExitPatience{1000};

RadosConnections& process_connections() {
  // Never destroyed: helper threads may use them until the end of the process.
  static auto* const connections = new RadosConnections;
  return *connections;
}

std::unexpected<OpenFailure> invalid(const char* what, std::string detail) {
  return std::unexpected(
      OpenFailure{Error::make(ErrorKind::kInvalidArgument, what), std::move(detail)});
}

/// On a helper thread.
OpenResult<std::shared_ptr<Disk>> open_blocking(RadosConnections& connections,
                                                const OpenOptions& options,
                                                const RbdImage::Options& image_options, bool locks,
                                                ByteCount served) {
  auto image = RbdImage::open(connections, image_options);
  if (!image) return std::unexpected(std::move(image.error()));
  const auto features = (*image)->features();
  if (!features) return std::unexpected(OpenFailure{features.error(), {}});
  const bool has_lock = (*features & RBD_FEATURE_EXCLUSIVE_LOCK) != 0;
  if (!has_lock && !options.is_read_only) {
    log::warning(
        "{}: {} has no exclusive-lock feature: nothing keeps other clients from writing to it",
        options.name, image_options.uri.to_string());
  }
  auto session = std::make_shared<RbdSession>(
      connections,
      RbdSession::Options{.name = options.name,
                          .image = image_options,
                          .uses_lock = has_lock && !options.is_read_only,
                          .state_path = options.state_path},
      *image);
  if (locks && has_lock && !options.is_read_only) {
    if (auto locked = session->lock_now(); !locked) {
      return std::unexpected(std::move(locked.error()));
    }
  }
  auto disk = RbdDisk::make(options, std::move(session), **image, served);
  if (!disk) return std::unexpected(std::move(disk.error()));
  return std::shared_ptr<Disk>(std::move(*disk));
}

}  // namespace

RbdFactory::RbdFactory() : connections_(process_connections()) {}

RbdFactory::~RbdFactory() { (void)helper_threads::wait_idle(kExitPatience); }

OpenResult<std::shared_ptr<Disk>> RbdFactory::open(const OpenOptions& options) {
  return open_with(options, options.is_claimed_in_use ? Locking::kLater : Locking::kAtOpen,
                   ByteCount(0));
}

OpenResult<std::shared_ptr<Disk>> RbdFactory::take_over(const OpenOptions& options,
                                                        DiskSnapshot snapshot) {
  return open_with(options, Locking::kLater, snapshot.size);
}

OpenResult<std::shared_ptr<Disk>> RbdFactory::open_with(const OpenOptions& options, Locking locking,
                                                        ByteCount served) {
  auto uri = parse_rbd_uri(options.uri);
  if (!uri) return invalid("the name of an RBD image", uri.error());
  auto settings = parse_rbd_settings(options.settings);
  if (!settings) return invalid("a setting of an RBD image", settings.error());
  if (auto checked = check_block_size(options.block_size); !checked) {
    return std::unexpected(OpenFailure{checked.error(), {}});
  }
  if (!uri->snapshot.empty() && !options.is_read_only) {
    return std::unexpected(
        OpenFailure{Error::make(ErrorKind::kReadOnly, "open the image"),
                    fmt::format("{} is a snapshot: set read-only=on", uri->to_string())});
  }
  const RbdImage::Options image{
      .uri = *uri, .settings = *settings, .is_read_only = options.is_read_only};
  auto opened = helper_threads::call(
      settings->io_timeout, [&connections = connections_, options, image, locking, served] {
        return open_blocking(connections, options, image, locking == Locking::kAtOpen, served);
      });
  if (!opened) return std::unexpected(OpenFailure{opened.error(), {}});
  if (!*opened) {
    return std::unexpected(
        OpenFailure{Error::host(ETIMEDOUT, "open the image"),
                    fmt::format("{}: the cluster does not answer ({} s)", uri->to_string(),
                                settings->io_timeout.count())});
  }
  return std::move(**opened);
}

}  // namespace guestio::disk

GUESTIO_DISK_MODULE(guestio::disk::RbdFactory);
