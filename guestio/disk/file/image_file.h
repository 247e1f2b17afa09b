// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>

#include "guestio/base/error.h"
#include "guestio/base/log.h"
#include "guestio/base/unique_fd.h"
#include "guestio/buf/bounce_buffer_tracker.h"
#include "guestio/disk/file/file_disk_options.h"
#include "guestio/disk/guard/block_guard.h"
#include "guestio/disk/probe/file_limits.h"

namespace guestio::disk {

/// The open image of a FileDisk, with the state shared by its channels.
///
/// It has two descriptors. The claim holds the image's locks and sees no io_uring ring: a ring that
/// dies with its process releases its files some time later, and a successor must not find the
/// image busy. All I/O goes to the other descriptor.
///
/// Threads: any, except claim descriptor and flush error, which change while nothing is in flight.
/// Lifetime: outlives the channels.
class ImageFile {
 public:
  /// Measures direct calls and misaligned reads, and tries polling if `options` asks for it.
  ImageFile(UniqueFd claim, UniqueFd io, const FileFacts& facts, const FileDiskOptions& options);

  /// The subject of log lines.
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] const UniqueFd& io() const noexcept { return io_; }
  [[nodiscard]] const UniqueFd& claim() const noexcept { return claim_; }
  void set_claim(UniqueFd claim) noexcept { claim_ = std::move(claim); }

  [[nodiscard]] const FileFacts& facts() const noexcept { return facts_; }
  [[nodiscard]] const buf::DirectIoLimits& limits() const noexcept { return facts_.direct; }
  [[nodiscard]] bool is_cached() const noexcept { return caching_ == Caching::kBuffered; }
  /// Calls of the thread itself are faster than the ring (direct_calls.h).
  [[nodiscard]] bool prefers_direct_calls() const noexcept { return prefers_direct_calls_; }
  /// Misaligned reads go through bounce memory (bounce_reads.h).
  [[nodiscard]] bool bounces_reads() const noexcept { return bounces_reads_; }
  [[nodiscard]] Completion completion() const noexcept { return completion_; }
  [[nodiscard]] BounceRegistration bounce_registration() const noexcept {
    return bounce_registration_;
  }
  /// The sysfs folder for read_lifetime(), if the device has one.
  [[nodiscard]] const std::optional<std::string>& lifetime_folder() const noexcept {
    return lifetime_folder_;
  }
  [[nodiscard]] BlockGuard& block_guard() noexcept { return block_guard_; }
  [[nodiscard]] buf::BounceBufferTracker& bounce_tracker() noexcept { return bounce_tracker_; }

  /// The outcome of a flush, or of a stable write through the page cache, with the kernel's
  /// `result`. After one failed flush the page cache takes its lost pages for written, and the next
  /// flush would succeed without them. So all later flushes fail, too. Errors: host, data lost.
  Result<> check_flush(std::int32_t result) noexcept;
  [[nodiscard]] int flush_errno() const noexcept { return flush_errno_.load(); }
  void set_flush_errno(int error_number) noexcept { flush_errno_ = error_number; }
  /// Flushes by a call of the thread itself: 0 or -errno. A cached file is flushed through its
  /// claim, if there is one: each open file reports lost pages once, and no ring flushes that one.
  [[nodiscard]] std::int32_t flush_by_call() const noexcept;
  /// Logs a resource shortage of the host, rate-limited.
  void report_shortage(int error_number) noexcept;

 private:
  const std::string name_;
  UniqueFd claim_;
  const UniqueFd io_;
  const FileFacts facts_;
  const Caching caching_;
  const bool prefers_direct_calls_;
  const bool bounces_reads_;
  const Completion completion_;
  const BounceRegistration bounce_registration_;
  const std::optional<std::string> lifetime_folder_;
  std::atomic<int> flush_errno_ = 0;  // of the first flush of the page cache that failed
  log::RateLimit shortage_log_{1, std::chrono::minutes(1)};
  BlockGuard block_guard_;
  buf::BounceBufferTracker bounce_tracker_{buf::BounceBufferTracker::Options{}};
};

}  // namespace guestio::disk
