// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>

#include "guestio/disk/disk.h"

namespace guestio::disk {

/// An injected failure of one request.
struct Fault {
  Error error;
  /// Bytes at the front of a read or write that the disk below still moves.
  std::uint64_t moved = 0;

  /// A transfer that stops after `moved` of `wanted` bytes.
  static constexpr Fault short_transfer(std::uint64_t moved, std::uint64_t wanted) noexcept {
    return {Error::make(ErrorKind::kShortTransfer, "a disk that moves less", moved, wanted), moved};
  }
};

/// Injects failures into a channel; other requests go to the channel below.
///
///     FaultChannel disk(std::move(below), [&](const Io& io) -> std::optional<Fault> {
///       if (io.kind != IoKind::kWrite) return std::nullopt;
///       return Fault{Error::host(ENOSPC, "write")};
///     });
///
/// Allocates for short transfers only. Threads: one. Lifetime: as Channel.
class FaultChannel final : public Channel {
 public:
  /// Called once for each request, before it starts. Nothing: no fault.
  using Choose = std::move_only_function<std::optional<Fault>(const Io& io)>;

  FaultChannel(std::unique_ptr<Channel> below, Choose choose) noexcept;
  FaultChannel(const FaultChannel&) = delete;
  FaultChannel& operator=(const FaultChannel&) = delete;
  ~FaultChannel() override;

  void start(Io& io) noexcept override;
  /// Fails all later requests, as an unplugged device does.
  void remove() noexcept { is_removed_ = true; }
  void reinsert() noexcept { is_removed_ = false; }

 private:
  class ShortTransfer;

  std::unique_ptr<Channel> below_;
  Choose choose_;
  bool is_removed_ = false;
  std::list<ShortTransfer> short_transfers_;  // in flight
};

}  // namespace guestio::disk
