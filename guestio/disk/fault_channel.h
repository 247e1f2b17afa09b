// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>

#include "guestio/disk/disk.h"

namespace guestio::disk {

/// What is to become of one request instead of its success.
struct Fault {
  Error error;
  /// Bytes at the front of a read or write that the disk below moves all the same.
  std::uint64_t moved = 0;

  /// A transfer that stops after `moved` of `wanted` bytes.
  static constexpr Fault short_transfer(std::uint64_t moved, std::uint64_t wanted) noexcept {
    return {Error::make(ErrorKind::kShortTransfer, "a disk that moves less", moved, wanted), moved};
  }
};

/// A disk whose requests fail when somebody says so; the others go to the disk below. For trying
/// out what stands on a disk.
///
///     FaultChannel disk(std::move(below), [&](const Io& io) -> std::optional<Fault> {
///       if (io.kind != IoKind::kWrite) return std::nullopt;
///       return Fault{Error::host(ENOSPC, "write")};
///     });
///
/// Allocates for short transfers only. Threads: one. Lifetime: as Channel.
class FaultChannel final : public Channel {
 public:
  /// Asked once for each request, before it starts. Nothing: no fault.
  using Choose = std::move_only_function<std::optional<Fault>(const Io& io)>;

  FaultChannel(std::unique_ptr<Channel> below, Choose choose) noexcept;
  FaultChannel(const FaultChannel&) = delete;
  FaultChannel& operator=(const FaultChannel&) = delete;
  ~FaultChannel() override;

  void start(Io& io) noexcept override;
  /// From now on every request fails as that of a device that was pulled out.
  void remove() noexcept { is_gone_ = true; }
  void reinsert() noexcept { is_gone_ = false; }

 private:
  class Part;

  std::unique_ptr<Channel> below_;
  Choose choose_;
  bool is_gone_ = false;
  std::list<Part> parts_;  // in flight
};

}  // namespace guestio::disk
