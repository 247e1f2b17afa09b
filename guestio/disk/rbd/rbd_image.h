// SPDX-License-Identifier: MIT
#pragma once

#include <rados/librados.h>
#include <rbd/librbd.h>

#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/disk/rbd/rados_connections.h"
#include "guestio/disk/rbd/rbd_settings.h"
#include "guestio/disk/rbd/rbd_uri.h"
#include "guestio/disk/registry.h"

namespace guestio::disk {

/// An open image: librbd's handle on a connection's share. All threads of a disk share it.
///
/// Threads: handle() from any; all else blocks, so helper threads only. The last reference may go
/// anywhere: a helper thread closes the image.
class RbdImage {
 public:
  struct Options {
    RbdUri uri;
    RbdSettings settings;
    bool is_read_only = false;
  };

  /// Opens the image, and its encryption. Takes no lock. Errors: with words for the operator.
  static OpenResult<std::shared_ptr<RbdImage>> open(RadosConnections& connections,
                                                    const Options& options);
  RbdImage(const RbdImage&) = delete;
  RbdImage& operator=(const RbdImage&) = delete;

  [[nodiscard]] rbd_image_t handle() const noexcept { return handle_; }
  [[nodiscard]] RadosConnection& connection() const noexcept { return *connection_; }

  /// Of the guest's bytes: without the header of the encryption.
  [[nodiscard]] Result<std::uint64_t> size() const;
  [[nodiscard]] Result<std::uint64_t> features() const;
  /// Whether librbd caches writes: metadata of an image may switch it on.
  [[nodiscard]] bool has_cache() const;
  /// Calls `changed`, on a thread of librbd, when somebody changed the image's header. Once.
  Result<> watch(std::function<void()> changed);

 private:
  RbdImage(RadosConnections::Share connection, rados_ioctx_t pool, rbd_image_t handle) noexcept
      : connection_(std::move(connection)), pool_(pool), handle_(handle) {}
  ~RbdImage();
  OpenResult<void> load_encryption(const RbdSettings& settings);

  RadosConnections::Share connection_;
  const rados_ioctx_t pool_;
  const rbd_image_t handle_;
  std::function<void()> changed_;  // constant while watched
  std::uint64_t watch_ = 0;
  bool is_watched_ = false;
};

}  // namespace guestio::disk
