// SPDX-License-Identifier: MIT
#pragma once

#include "guestio/disk/disk.h"

namespace guestio::disk {

/// A disk that forgets what is written and leaves what is read as it is: for measuring what the way
/// to a disk costs. Every request is done before start() returns.
class NullChannel final : public Channel {
 public:
  explicit NullChannel(const DiskInfo& info) noexcept : info_(info) {}
  void start(Io& io) noexcept override { io.on_done(check_io(info_, io)); }

 private:
  const DiskInfo info_;
};

/// Facts of a null disk of `size` bytes, which can do everything.
[[nodiscard]] DiskInfo make_null_disk_info(ByteCount size) noexcept;

}  // namespace guestio::disk
