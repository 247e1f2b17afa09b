// SPDX-License-Identifier: MIT
#pragma once

#include "guestio/base/mapping.h"
#include "guestio/disk/disk.h"

namespace guestio::disk {

/// A disk in memory of this process. Every request completes before start() returns.
///
/// Threads: one.
class RamChannel final : public Channel {
 public:
  /// Rounds `size` down to whole sectors. Errors: host; invalid argument for size 0.
  static Result<std::unique_ptr<RamChannel>> create(ByteCount size);

  [[nodiscard]] const DiskInfo& info() const noexcept { return info_; }
  /// The disk's bytes.
  [[nodiscard]] std::span<std::byte> bytes() noexcept {
    return memory_.bytes().first(info_.size.raw());
  }

  void start(Io& io) noexcept override;

 private:
  RamChannel(Mapping memory, const DiskInfo& info) noexcept
      : memory_(std::move(memory)), info_(info) {}
  Result<> perform(Io& io) noexcept;

  Mapping memory_;
  DiskInfo info_;
};

}  // namespace guestio::disk
