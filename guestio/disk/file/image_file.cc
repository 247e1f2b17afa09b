// SPDX-License-Identifier: MIT
#include "guestio/disk/file/image_file.h"

#include <unistd.h>

#include <cerrno>

#include "guestio/disk/file/bounce_reads.h"
#include "guestio/disk/file/direct_calls.h"
#include "guestio/disk/probe/lifetime.h"
#include "guestio/disk/probe/polled_file.h"

namespace guestio::disk {

namespace {

/// Only a file without memory alignment may have its bytes copied by the kernel.
bool choose_bounce_reads(int fd, const FileFacts& facts, const FileDiskOptions& options,
                         bool is_in_memory) {
  if (options.bounce_reads != BounceReads::kMeasured) {
    return options.bounce_reads == BounceReads::kAlways;
  }
  const bool may_be_copied = is_in_memory || options.caching == Caching::kBuffered;
  return may_be_copied && facts.direct.memory_alignment == 1 &&
         are_misaligned_reads_slow(fd, facts.size.raw());
}

Completion choose_completion(int fd, const FileFacts& facts, const FileDiskOptions& options) {
  if (options.completion == Completion::kInterrupt) return Completion::kInterrupt;
  const Result<> able = options.caching == Caching::kDirect
                            ? check_polled_reads(fd, facts.size.raw(), facts.direct.block())
                            : fail(ErrorKind::kUnsupported, "polling with --buffered");
  if (able) return Completion::kPolled;
  log::warning("{}: polled I/O (--iopoll) not available, completions by interrupt: {}",
               options.subject(), able.error().to_string());
  return Completion::kInterrupt;
}

}  // namespace

ImageFile::ImageFile(UniqueFd claim, UniqueFd io, const FileFacts& facts,
                     const FileDiskOptions& options)
    : name_(options.subject()),
      claim_(std::move(claim)),
      io_(std::move(io)),
      facts_(facts),
      caching_(options.caching),
      prefers_direct_calls_(
          are_direct_calls_faster(io_.get(), facts.size.raw(), facts.direct.block())),
      bounces_reads_(choose_bounce_reads(io_.get(), facts, options, prefers_direct_calls_)),
      completion_(choose_completion(io_.get(), facts, options)),
      bounce_registration_(options.bounce_registration),
      lifetime_folder_(find_lifetime(io_.get())) {
  if (prefers_direct_calls_) {
    log::debug("{}: image in memory: I/O by direct calls without the ring", name_);
  }
  if (bounces_reads_) log::debug("{}: misaligned reads are bounced", name_);
}

Result<> ImageFile::check_flush(std::int32_t result) noexcept {
  constexpr const char* kWhat = "flush the image";
  if (caching_ == Caching::kDirect) {
    if (result < 0) return fail(Error::host(-result, kWhat));
    return {};
  }
  int expected = 0;
  if (result < 0 && flush_errno_.compare_exchange_strong(expected, -result)) {
    log::error(
        "{}: flush failed, data may be lost: {}; every flush fails until the image is reopened",
        name_, Error::host(-result, kWhat).to_string());
  }
  const int flush_errno = flush_errno_.load();
  if (flush_errno == 0) return {};
  return fail(Error{ErrorKind::kDataLost, flush_errno, kWhat, 0, 0});
}

std::int32_t ImageFile::flush_by_call() const noexcept {
  const UniqueFd& fd = is_cached() && claim_ ? claim_ : io_;
  return ::fdatasync(fd.get()) == 0 ? 0 : -errno;
}

void ImageFile::report_shortage(int error_number) noexcept {
  log::rate_limited_warning(
      shortage_log_,
      "{}: the host is short of memory or threads: {}; I/O is retried, then called by the queue's "
      "own thread, which delays the thread's other disks: raise the process's limits "
      "(RLIMIT_NPROC, pids.max) or free memory",
      name_, Error::host(error_number, "io_uring").to_string());
}

}  // namespace guestio::disk
