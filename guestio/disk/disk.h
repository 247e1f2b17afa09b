// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "guestio/base/counter.h"
#include "guestio/base/error.h"
#include "guestio/base/units.h"
#include "guestio/buf/bounce_account.h"
#include "guestio/buf/bounce_counters.h"
#include "guestio/buf/request_buffers.h"

/// What a disk is, whatever stands behind it. A Disk holds the facts that all threads share; a
/// Channel is one thread's way to it and does the work.
namespace guestio::disk {

enum class IoKind : std::uint8_t {
  kRead,
  kWrite,
  kFlush,
  kDiscard,
  kWriteZeroes,
  kSecureErase,  ///< nothing that stood there can be read again, not even from the bare medium
};

[[nodiscard]] const char* to_text(IoKind kind) noexcept;

/// When a write counts as done.
enum class Durability : std::uint8_t {
  kCached,  ///< in the disk's cache; a flush makes it lasting
  kStable,  ///< on stable storage (write-through, FUA)
};

/// What an operation's offset and length must be a multiple of.
enum class Granularity : std::uint8_t {
  kBlocks,   ///< DiskInfo::block_size
  kSectors,  ///< 512 bytes: whoever asks has not heard of larger blocks
};

/// Whether zeroed blocks may be given back to the storage below.
enum class Unmap : std::uint8_t { kForbidden, kAllowed };

/// What an operation that works on a range may take; absent when the disk cannot do it at all.
struct RangeLimits {
  ByteCount max_bytes;
  ByteCount alignment;  ///< ranges not aligned to it work but may free nothing
};

/// How large a disk is. Set by one thread when the disk grows, read by any. Relaxed: whoever hears
/// of the new size hears of it through a message between threads.
class DiskSize {
 public:
  constexpr DiskSize() noexcept = default;
  // Implicit both ways: it is used as the number that it is at that moment.
  constexpr DiskSize(ByteCount size) noexcept : bytes_(size.raw()) {}
  operator ByteCount() const noexcept { return ByteCount(raw()); }
  [[nodiscard]] std::uint64_t raw() const noexcept { return bytes_.value(); }
  friend bool operator==(const DiskSize& a, ByteCount b) noexcept { return a.raw() == b.raw(); }

 private:
  Counter bytes_;
};

/// The facts that a guest is told. Constant while a front-end is connected, except `size`.
struct DiskInfo {
  DiskSize size;                                   ///< a multiple of 512
  ByteCount block_size = ByteCount(512);           ///< what requests must be a multiple of
  ByteCount physical_block_size = ByteCount(512);  ///< what the storage does at least cost
  bool is_read_only = false;
  std::optional<RangeLimits> discard;
  std::optional<RangeLimits> write_zeroes;
  std::optional<RangeLimits> secure_erase;  ///< ranges not aligned to it are refused
  bool has_lifetime = false;                ///< Channel::lifetime() has an answer
};

/// How far a device is worn, as eMMC devices tell it (JEDEC JESD84; virtio 1.2, section 5.2.6).
struct Lifetime {
  std::uint16_t pre_eol_info = 0;  ///< of reserved blocks: 1 normal, 2 80 % used, 3 90 %; 0 unknown
  std::uint16_t estimate_type_a =
      0;  ///< of SLC cells' life, in tenths from 1 on; 11 exceeded; 0 unknown
  std::uint16_t estimate_type_b = 0;  ///< the same of MLC cells
};

/// One piece of work for a disk. Made by the caller, which keeps it alive and unchanged from
/// Channel::start() until on_done().
class Io {
 public:
  IoKind kind = IoKind::kRead;
  Durability durability = Durability::kCached;  ///< of all that changes the disk
  Unmap unmap = Unmap::kForbidden;              ///< of kWriteZeroes
  /// The same of all that are in flight at a time: parts of blocks are read, modified and written,
  /// which has to be kept from happening to a block that another one writes as a whole.
  Granularity granularity = Granularity::kBlocks;
  FileOffset offset;            ///< not used by kFlush
  std::uint64_t length = 0;     ///< bytes; equals buffers.size() for kRead and kWrite
  buf::RequestBuffers buffers;  ///< of kRead (writable) and kWrite

  /// The work is over; the channel does not touch this object any more, which may be started again
  /// or destroyed here. Called on the channel's thread, perhaps from inside start().
  virtual void on_done(Result<> result) noexcept = 0;

 protected:
  Io() = default;
  Io(const Io&) = default;
  Io& operator=(const Io&) = default;
  ~Io() = default;
};

/// What a channel counts; zeroes where there is nothing to count.
struct ChannelStatistics {
  buf::BounceCounters transfers;
  buf::BounceStatistics bounce;    ///< waits for bounce memory
  std::uint64_t direct_calls = 0;  ///< requests by a system call of their own
  std::uint64_t shortages = 0;     ///< attempts that the host was short of something for
};

/// One thread's way to a disk. All calls and completions on that thread. Quiet (nothing in flight)
/// when destroyed.
class Channel {
 public:
  virtual ~Channel() = default;

  /// Begins `io`. Never fails and never blocks; too much at once waits in order. A range outside
  /// the disk, a write to a read-only disk, and kinds that DiskInfo does not offer end with an
  /// error. Requests may be done in any order; a flush covers the writes that were done before it
  /// started.
  virtual void start(Io& io) noexcept = 0;
  /// Errors: unsupported, where DiskInfo does not offer it.
  virtual Result<Lifetime> lifetime() {
    return fail(ErrorKind::kUnsupported, "the lifetime of this disk");
  }
  /// Any thread.
  [[nodiscard]] virtual ChannelStatistics statistics() const noexcept { return {}; }
};

/// Checks that every disk makes before it starts anything. Errors: out of range, read-only,
/// unsupported, misaligned.
Result<> check_io(const DiskInfo& info, const Io& io) noexcept;

}  // namespace guestio::disk
