// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "guestio/base/error.h"
#include "guestio/base/units.h"
#include "guestio/buf/bounce_account.h"
#include "guestio/buf/bounce_buffer_tracker.h"
#include "guestio/disk/disk.h"
#include "guestio/disk/guard/block_guard.h"
#include "guestio/disk/remote/unflushed_writes.h"
#include "guestio/uring/loop.h"

namespace guestio::disk {

/// What the engine of a remote disk accepts. RemoteChannel splits, pads and emulates the rest.
struct RemoteLimits {
  std::uint64_t max_transfer = std::uint64_t{1} << 20;  ///< bytes of a read or write command
  std::uint64_t max_range = std::uint64_t{1} << 30;     ///< bytes of a discard or write-zeroes
  /// Of offset and length of all commands: a power of two from 1. The disk's size is a multiple.
  std::uint64_t alignment = 1;
  /// Discard and write-zeroes exclude writes to the same blocks of this size, a power of two; 0:
  /// the server orders them.
  std::uint64_t range_block = 0;
  bool has_fua = true;           ///< Durability::kStable; else a flush follows
  bool has_flush = true;         ///< else nothing is cached: every write is durable
  bool has_write_zeroes = true;  ///< else zeroes are written
};

/// State that the channels of a remote disk share. A backend derives its disk from this class, and
/// its channels from RemoteChannel.
///
/// Threads: any, where not said otherwise. Lifetime: outlives its channels.
class RemoteDisk : public Disk {
 public:
  [[nodiscard]] const DiskInfo& info() const noexcept override { return info_; }
  /// Takes over the size of announce_size(); never blocks. Errors: unsupported (the storage
  /// shrank).
  Result<ByteCount> refresh_size() override;
  void on_size_change(std::move_only_function<void()> changed) override;

  /// The subject of log lines: "disk root".
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] const RemoteLimits& limits() const noexcept { return limits_; }
  [[nodiscard]] BlockGuard& block_guard() noexcept { return block_guard_; }
  /// Empty: the server keeps what it acknowledges, or says nothing of a cache.
  [[nodiscard]] UnflushedWrites* unflushed_writes() noexcept { return unflushed_.get(); }
  /// Bounce memory for the channel of `loop`. Errors: too large, host.
  [[nodiscard]] Result<buf::OpenBounceAccount> open_account(uring::Loop& loop,
                                                            ByteCount bounce_limit);

 protected:
  /// `info`: as the server describes it; discard and write-zeroes get limits here. Requires: a size
  /// in whole blocks of `limits.alignment`.
  RemoteDisk(std::string name, const DiskInfo& info, const RemoteLimits& limits);

  /// For a server with a write-back cache, before the first channel.
  void keep_unflushed_writes(ByteCount limit) {
    unflushed_ = std::make_unique<UnflushedWrites>(limit);
  }
  [[nodiscard]] const UnflushedWrites* unflushed_writes() const noexcept {
    return unflushed_.get();
  }
  /// The server reports this size: on_size_change() hears of it.
  void announce_size(ByteCount size);

 private:
  const std::string name_;
  DiskInfo info_;  // constant except for the size
  const RemoteLimits limits_;
  std::atomic<std::uint64_t> announced_size_;
  BlockGuard block_guard_;
  std::unique_ptr<UnflushedWrites> unflushed_;  // optional
  buf::BounceBufferTracker bounce_tracker_{buf::BounceBufferTracker::Options{}};
  std::mutex mutex_;
  // protected by mutex_
  std::move_only_function<void()> size_changed_;
};

}  // namespace guestio::disk
