// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "guestio/base/error.h"
#include "guestio/base/log.h"
#include "guestio/base/unique_fd.h"
#include "guestio/buf/bounce_buffer_tracker.h"
#include "guestio/disk/disk.h"
#include "guestio/disk/file/block_guard.h"
#include "guestio/disk/file/file_limits.h"
#include "guestio/disk/file/image_lock.h"
#include "guestio/disk/file/read_placement.h"
#include "guestio/disk/file/registered_bounce.h"
#include "guestio/uring/loop.h"

namespace guestio::disk {

enum class Caching {
  kDirect,    ///< O_DIRECT: past the host's page cache
  kBuffered,  ///< through it
};

/// When a disk claims its image, which keeps other processes from it (image_lock.h).
enum class ClaimMode {
  kWhileOpen,   ///< until it goes away
  kWhileInUse,  ///< from claim() to release(): others use the image meanwhile
};

/// Whether an image may look like another format (image_format.h).
enum class FormatCheck {
  kRefuseForeign,  ///< what starts or ends as another format does is not opened
  kNone,           ///< somebody knows that it is raw
};

/// How direct I/O comes to its end.
using uring::Completion;

struct FileDiskOptions {
  std::string path;
  std::string name = {};  ///< the subject of log lines, as in "disk root"; empty: the path
  ImageAccess use = ImageAccess::kReadWrite;
  Caching caching = Caching::kDirect;
  /// What the guest is told; smaller than what the file takes is served by read-modify-write.
  ByteCount block_size = ByteCount(512);
  /// kPolled: where the file's device can; where not, one line in the log says why.
  Completion completion = Completion::kInterrupt;
  BounceRegistration bounce_registration = BounceRegistration::kIfUnlimited;
  ClaimMode claim_mode = ClaimMode::kWhileOpen;
  BounceReads bounce_reads = BounceReads::kMeasured;
  FormatCheck format_check = FormatCheck::kRefuseForeign;

  [[nodiscard]] std::string subject() const { return name.empty() ? "disk " + path : name; }
};

/// A raw image: a regular file or a block device. Holds what its channels share.
///
/// Threads: everything here may be used from any thread; a channel belongs to the thread whose loop
/// it was made with. Lifetime: outlives its channels.
class FileDisk final : public Disk {
 public:
  /// Opens and locks the image and finds out what it can do; changes nothing in it.
  /// Errors: host (no such file, permission …), busy (in use by another process), unsupported (not
  /// a file or block device; no direct I/O, where the answer is Caching::kBuffered), misaligned
  /// (the size is no whole number of direct I/O blocks, same answer), invalid argument (block
  /// size; an image of less than one), foreign format (unless FormatCheck::kNone), short transfer
  /// (of the reads that look for one).
  static Result<std::unique_ptr<FileDisk>> open(const FileDiskOptions& options);

  /// Goes on with the files of another process, whatever the guest has written to them meanwhile.
  /// What is said by `options` has to be what the other was made with; the path is for people.
  /// Errors: as open(), but for the format; invalid argument (other files than `options` says).
  static Result<std::unique_ptr<FileDisk>> take_over(const FileDiskOptions& options,
                                                     DiskSnapshot snapshot);
  /// Errors: host. One thread.
  [[nodiscard]] Result<DiskSnapshot> snapshot() const override;
  /// What may have changed since adopt(): the claim, and what a flush lost. Errors: invalid
  /// argument (a claim of another file). Requires: nothing was in flight since then.
  Result<> restore(DiskSnapshot latest) override;

  [[nodiscard]] const DiskInfo& info() const noexcept override { return info_; }
  /// The subject of log lines.
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  /// Asks the file or device how large it is now. What it has grown by is part of the disk when
  /// this returns; one that has shrunk is left as it was. Returns the size, in whole blocks. One
  /// thread at a time. Errors: unsupported (it shrank), misaligned (as in open()), host.
  Result<ByteCount> refresh_size() override;
  /// What was possible of what was asked for.
  [[nodiscard]] Completion completion() const noexcept { return completion_; }
  [[nodiscard]] const buf::DirectIoLimits& limits() const noexcept { return facts_.direct; }

  // With ClaimMode::kWhileInUse; otherwise they do nothing. One thread.

  /// Errors: busy (in use by another process), host.
  Result<> claim() override;
  /// What was written is brought to the disk first, since whoever comes next cannot flush our
  /// host's cache. Requires: nothing is in flight.
  void release() noexcept override;

  /// A way to this disk for the thread that runs `loop`. `bounce_limit` is how much bounce memory
  /// it adds to what the disk's channels have: half of it for this one alone, the other half for
  /// whichever needs it. Errors: host.
  Result<std::unique_ptr<Channel>> open_channel(uring::Loop& loop, ByteCount bounce_limit) override;

 private:
  friend class FileChannel;
  FileDisk(UniqueFd claim, UniqueFd io, const FileFacts& facts, const DiskInfo& info,
           const FileDiskOptions& options) noexcept;

  /// What a flush, or a stable write, says that the kernel answered with `result`. Once a flush of
  /// the page cache has failed, the pages it could not write count as written and the next one
  /// would succeed without them: none succeeds from then on.
  Result<> check_flush(std::int32_t result) noexcept;
  [[nodiscard]] bool is_cached() const noexcept { return caching_ == Caching::kBuffered; }
  /// A flush by the calling thread: 0 or -errno. Of a cached file through the descriptor of its
  /// claim, if there is one: each open file is told once of pages that could not be written, and no
  /// ring asks through that one.
  [[nodiscard]] std::int32_t flush_by_call() const noexcept;
  /// Says now and then that the host is short of something. Any thread.
  void report_shortage(int error_number) noexcept;

  const std::string name_;
  const ClaimMode claim_mode_;
  UniqueFd claim_;  // holds the image's locks, is used for nothing else
  const UniqueFd fd_;
  const FileFacts facts_;
  DiskInfo info_;             // constant but for the size
  const bool calls_pay_;      // are_direct_calls_faster()
  const bool bounces_reads_;  // those that lie badly are bounced
  const Completion completion_;
  const BounceRegistration bounce_registration_;
  const Caching caching_;
  const std::optional<std::string> lifetime_;  // the folder that tells of it
  std::atomic<int> flush_errno_ = 0;  // errno of the first flush of the page cache that failed
  log::RateLimit shortage_log_{1, std::chrono::minutes(1)};
  BlockGuard block_guard_;
  buf::BounceBufferTracker bounce_{buf::BounceBufferTracker::Options{}};
};

}  // namespace guestio::disk
