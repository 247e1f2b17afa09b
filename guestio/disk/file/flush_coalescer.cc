// SPDX-License-Identifier: MIT
#include "guestio/disk/file/flush_coalescer.h"

#include <cerrno>
#include <utility>

#include "guestio/uring/awaitables.h"

namespace guestio::disk {

task::Task<Result<>> FlushCoalescer::flush() {
  task::WaitQueue& round = waiters_[next_round_];
  if (!std::exchange(is_flushing_, true)) rounds_.spawn(run_rounds());
  (void)co_await round.wait();
  co_return result_;
}

task::Task<> FlushCoalescer::run_rounds() {
  do {
    task::WaitQueue& covered = waiters_[next_round_];
    next_round_ ^= 1U;  // later requests are not covered by this flush
    const std::int32_t result = co_await flush_once();
    result_ = context_.image.check_flush(result);
    covered.wake_all();
  } while (!waiters_[next_round_].is_empty());
  is_flushing_ = false;
}

task::Task<std::int32_t> FlushCoalescer::flush_once() {
  ShortageRetry retry(context_.shortages);
  while (true) {
    std::int32_t result = 0;
    if (retry.is_call()) {
      ++context_.direct_calls;
      result = context_.image.flush_by_call();
    } else {
      result = co_await uring::fsync(context_.loop, context_.file, uring::SyncKind::kData);
    }
    if (context_.image.is_cached()) {
      // The page cache reports lost writes once, and a retry would hide the report. Only a flush
      // that never began is retried, through a descriptor without a report so far.
      if (result != -ECANCELED || !context_.should_retry(retry, result)) co_return result;
      ++context_.direct_calls;
      co_return context_.image.flush_by_call();
    }
    if (!context_.should_retry(retry, result)) co_return result;
    (void)co_await uring::sleep(context_.loop, retry.pause());
  }
}

}  // namespace guestio::disk
