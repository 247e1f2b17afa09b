// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "guestio/base/counter.h"
#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"
#include "guestio/base/units.h"
#include "guestio/buf/bounce_counters.h"
#include "guestio/buf/request_buffers.h"

namespace guestio::uring {
class Loop;
}  // namespace guestio::uring

/// The interfaces of every disk backend. A Disk holds facts and state shared by all threads. A
/// Channel does the I/O of one thread.
namespace guestio::disk {

enum class IoKind : std::uint8_t {
  kRead,
  kWrite,
  kFlush,
  kDiscard,
  kWriteZeroes,
  kSecureErase,  ///< the old contents cannot be read again, not even from the bare medium
};

[[nodiscard]] const char* to_text(IoKind kind) noexcept;

/// When a write is complete.
enum class Durability : std::uint8_t {
  kCached,  ///< in the disk's cache; a flush makes it durable
  kStable,  ///< on stable storage (write-through, FUA)
};

/// Alignment of an operation's offset and length.
enum class Granularity : std::uint8_t {
  kBlocks,   ///< DiskInfo::block_size
  kSectors,  ///< 512 bytes, for drivers without knowledge of larger blocks
};

/// Whether write-zeroes may deallocate blocks.
enum class Unmap : std::uint8_t { kForbidden, kAllowed };

/// Limits of a range operation; absent when the disk does not support it.
struct RangeLimits {
  ByteCount max_bytes;
  ByteCount alignment;  ///< unaligned ranges are valid but may free nothing
};

/// Size of a disk. Written by one thread when the disk grows, read by any. Relaxed: a message
/// between threads announces the new size.
class DiskSize {
 public:
  constexpr DiskSize() noexcept = default;
  // Implicit both ways: it stands for its present value.
  constexpr DiskSize(ByteCount size) noexcept : bytes_(size.raw()) {}
  operator ByteCount() const noexcept { return ByteCount(raw()); }
  [[nodiscard]] std::uint64_t raw() const noexcept { return bytes_.value(); }
  friend bool operator==(const DiskSize& a, ByteCount b) noexcept { return a.raw() == b.raw(); }

 private:
  Counter bytes_;
};

/// The facts of a disk for its guest. Constant while a front-end is connected, except `size`.
struct DiskInfo {
  DiskSize size;                                   ///< a multiple of 512
  ByteCount block_size = ByteCount(512);           ///< alignment of requests
  ByteCount physical_block_size = ByteCount(512);  ///< smallest unit the storage writes at once
  bool is_read_only = false;
  std::optional<RangeLimits> discard;
  std::optional<RangeLimits> write_zeroes;
  std::optional<RangeLimits> secure_erase;  ///< unaligned ranges are refused
  bool has_lifetime = false;                ///< Channel::lifetime() is supported
  bool is_remote = false;                   ///< behind a server, which may be away for a while
};

/// Wear of an eMMC device (JEDEC JESD84; virtio 1.2, section 5.2.6).
struct Lifetime {
  std::uint16_t pre_eol_info = 0;     ///< reserved blocks: 1 normal, 2 80 % used, 3 90 %; 0 unknown
  std::uint16_t estimate_type_a = 0;  ///< used life of SLC cells: 1 to 10 tenths, 11 exceeded
  std::uint16_t estimate_type_b = 0;  ///< the same of MLC cells
};

/// One request to a disk. The caller makes it, and keeps it alive and unchanged from
/// Channel::start() to on_done().
class Io {
 public:
  IoKind kind = IoKind::kRead;
  Durability durability = Durability::kCached;  ///< of all modifying kinds
  Unmap unmap = Unmap::kForbidden;              ///< of kWriteZeroes
  /// The same for all requests in flight: a read-modify-write of part of a block excludes writes
  /// of the whole block.
  Granularity granularity = Granularity::kBlocks;
  FileOffset offset;            ///< unused by kFlush
  std::uint64_t length = 0;     ///< bytes; equals buffers.size() for kRead and kWrite
  buf::RequestBuffers buffers;  ///< of kRead (writable) and kWrite

  /// Completes the request. The channel no longer uses this object, so the callback may start it
  /// again or destroy it. Called on the channel's thread, possibly from inside start().
  virtual void on_done(Result<> result) noexcept = 0;

 protected:
  Io() = default;
  Io(const Io&) = default;
  Io& operator=(const Io&) = default;
  ~Io() = default;
};

/// Counters of a channel; zero where a backend has nothing to count.
struct ChannelStatistics {
  buf::BounceCounters transfers;
  buf::BounceStatistics bounce;    ///< waits for bounce memory
  std::uint64_t direct_calls = 0;  ///< requests by a system call of the thread itself
  std::uint64_t shortages = 0;     ///< attempts with a resource shortage of the host
};

/// One thread's access to a disk. All calls and completions on that thread. Nothing is in flight
/// when it is destroyed.
class Channel {
 public:
  virtual ~Channel() = default;

  /// Starts `io`. Never fails and never blocks; excess requests wait in order. Requests complete in
  /// any order; a flush covers the writes completed before it started. Errors, by on_done(): those
  /// of check_io(), and the backend's own.
  virtual void start(Io& io) noexcept = 0;
  /// `available` is called when requests that failed with ErrorKind::kClosed may succeed again: the
  /// server is back. On the channel's thread, not from inside start(). Once, before the first
  /// request; a channel without a server never calls it.
  virtual void on_available(std::move_only_function<void()> available) { (void)available; }
  /// Errors: unsupported without DiskInfo::has_lifetime.
  virtual Result<Lifetime> lifetime() {
    return fail(ErrorKind::kUnsupported, "the lifetime of this disk");
  }
  /// Any thread.
  [[nodiscard]] virtual ChannelStatistics statistics() const noexcept { return {}; }
};

/// State of a disk on its way from a process to its successor. The successor gets the same open
/// files: the claim has no gap, a renamed image stays the image, and the page cache still reports
/// its lost writes.
struct DiskSnapshot {
  UniqueFd io;     ///< empty for a disk without a file
  UniqueFd claim;  ///< empty while the disk is not claimed
  ByteCount size{0};
  int flush_errno = 0;        ///< of a flush with lost data: later flushes fail, too; 0: none
  std::string backend_state;  ///< what a backend without files tells its successor; may be empty
  UniqueFd unflushed{};       ///< acknowledged writes that a server may lose; empty: none
};

/// The state of a disk's storage, for statistics.
struct DiskStatus {
  const char* backend = "file";   ///< "file", "null", "ram", "nbd", "rbd" …
  bool is_available = true;       ///< false while the server is away
  std::uint64_t connections = 0;  ///< to servers, open now
  std::uint64_t reconnects = 0;   ///< connections that replaced a lost one
  std::string detail;             ///< last error of the server; may be empty
};

/// A disk of any backend.
///
///     auto disk = FileDisk::open(options);
///     auto channel = (*disk)->open_channel(loop, bounce_limit);
///     (*channel)->start(io);
///
/// Threads: info() and open_channel() from any; the rest from one at a time. Lifetime: outlives its
/// channels.
class Disk {
 public:
  Disk() = default;
  Disk(const Disk&) = delete;
  Disk& operator=(const Disk&) = delete;
  virtual ~Disk() = default;

  [[nodiscard]] virtual const DiskInfo& info() const noexcept = 0;
  /// A channel for the thread of `loop`. It adds `bounce_limit` to the disk's bounce memory: half
  /// for this channel alone, half for any of them. Errors: host.
  ///
  /// The loop is declared here and not included: a disk only passes it on to its backend, so this
  /// room and the disks without a file stay free of io_uring.
  virtual Result<std::unique_ptr<Channel>> open_channel(uring::Loop& loop,
                                                        ByteCount bounce_limit) = 0;

  /// Queries the present size of the storage and takes over growth: the disk serves the new blocks
  /// at return. Ignores a shrunken storage. Returns the size. Errors: unsupported (fixed size;
  /// shrunken storage), misaligned, host.
  virtual Result<ByteCount> refresh_size() = 0;

  /// `changed` is called when refresh_size() may find another size: a server announced one. Any
  /// thread calls it; an empty function ends the calls. Disks without such news never call it.
  virtual void on_size_change(std::move_only_function<void()> changed) { (void)changed; }
  /// Whether all channels must be of one loop: the server accepts one connection only.
  [[nodiscard]] virtual bool needs_one_thread() const noexcept { return false; }
  /// Any thread.
  [[nodiscard]] virtual DiskStatus status() const { return {}; }

  /// The takeover of restore() is complete: the other process has ended, and cannot serve the disk
  /// any more.
  virtual void on_taken_over() noexcept {}
  /// Excludes other processes from the disk until release(). Does nothing for disks without claims,
  /// or with a permanent one. Errors: busy (in use by another process),
  /// host.
  virtual Result<> claim() { return {}; }
  /// Flushes, then ends claim(). Requires: nothing is in flight.
  virtual void release() noexcept {}

  /// Copies the state for another process. Errors: host.
  [[nodiscard]] virtual Result<DiskSnapshot> snapshot() const { return DiskSnapshot(); }
  /// Brings a disk made from an earlier snapshot of another process up to `latest`: its claim and
  /// its flush error. The size and the file stay. Errors: invalid argument (claim of another file).
  /// Requires: nothing was in flight since.
  virtual Result<> restore(DiskSnapshot latest);
};

/// Checks a block size for DiskInfo. Errors: invalid argument.
Result<> check_block_size(ByteCount size) noexcept;

/// Checks of every disk before it starts a request. Errors: out of range, read-only, unsupported,
/// misaligned, too large.
Result<> check_io(const DiskInfo& info, const Io& io) noexcept;

}  // namespace guestio::disk
