// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"
#include "guestio/base/units.h"
#include "guestio/disk/remote/remote_command.h"

namespace guestio::disk {

/// Copies of the writes, zeroes and discards that a server has acknowledged and no flush has
/// covered. A server with a write-back cache loses them when it ends; the same server, restarted,
/// gets them again in their order. (NFS clients treat unstable writes in the same way: RFC
/// 1813, 4.11.)
///
///     add() ─► 3: write  4: zeroes  5: write ─► drop_before(5), when the flush that began at 5
///     ends
///                └── next_batch(): may be in flight together
///
/// Two writes to the same bytes that were in flight together have the order of their completions.
///
/// Threads: any. The data of next_batch() lives until drop_before() or load().
class UnflushedWrites {
 public:
  using Position = std::uint64_t;

  /// `limit`: bytes of copies above which is_full().
  explicit UnflushedWrites(ByteCount limit) : limit_(limit.raw()) {}
  UnflushedWrites(const UnflushedWrites&) = delete;
  UnflushedWrites& operator=(const UnflushedWrites&) = delete;

  /// Copies an acknowledged write, write-zeroes or discard.
  void add(const RemoteCommand::Work& work);
  /// Writers flush before they go on.
  [[nodiscard]] bool is_full() const noexcept {
    return bytes_.load(std::memory_order_relaxed) > limit_;
  }
  [[nodiscard]] bool is_empty() const;
  /// The position of the oldest, and of the next one.
  [[nodiscard]] Position begin() const;
  [[nodiscard]] Position end() const;
  /// A flush has succeeded that began at this end().
  void drop_before(Position end);

  /// Writes from `at` on that may be in flight together, in order, and advances `at`; empty at the
  /// end. They do not overlap; a discard or write-zeroes shares no block of `range_block` with
  /// another one (RemoteLimits::range_block; 0: no such blocks).
  [[nodiscard]] std::vector<RemoteCommand::Work> next_batch(Position& at,
                                                            std::uint64_t range_block) const;

  /// All of them in a memory file, for another process. Errors: host.
  [[nodiscard]] Result<UniqueFd> save() const;
  /// Replaces all by those of save(). Errors: invalid argument, host. `disk_size`: of the disk.
  Result<> load(const UniqueFd& file, ByteCount disk_size);

 private:
  struct Entry {
    RemoteCommand::Work work;  // without its data
    std::vector<std::byte> data;

    /// With the administration.
    [[nodiscard]] std::uint64_t bytes() const noexcept { return sizeof(Entry) + data.size(); }
  };
  void clear();
  /// Memory for a copy of `length` bytes, of a dropped one if there is such. Any content.
  [[nodiscard]] std::vector<std::byte> take_spare(std::size_t length);
  /// Keeps the memory of a dropped copy. Requires: the lock.
  void keep_spare(std::vector<std::byte>& data);

  const std::uint64_t limit_;
  std::atomic<std::uint64_t> bytes_{0};
  mutable std::mutex mutex_;
  // protected by mutex_
  std::deque<Entry> entries_;
  Position begin_ = 0;  // of entries_.front()
  // Large ones: fresh pages cost more than the copy. With the copies at most limit_.
  std::vector<std::vector<std::byte>> spares_;
  std::uint64_t spare_bytes_ = 0;
};

}  // namespace guestio::disk
