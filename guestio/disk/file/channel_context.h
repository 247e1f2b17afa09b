// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "guestio/base/check.h"
#include "guestio/base/counter.h"
#include "guestio/buf/bounce_account.h"
#include "guestio/buf/bounce_counters.h"
#include "guestio/buf/transfer_plan.h"
#include "guestio/disk/disk.h"
#include "guestio/disk/file/errno_class.h"
#include "guestio/disk/file/image_file.h"
#include "guestio/disk/file/registered_bounce.h"
#include "guestio/disk/file/shortage.h"
#include "guestio/uring/loop.h"

namespace guestio::disk {

/// State of one FileChannel for its parts: fast path, planned transfers, range operations, flushes.
///
/// Threads: the channel's. Lifetime: outlives the parts.
struct ChannelContext {
  ChannelContext(ImageFile& of_image, const DiskInfo& of_disk, uring::Loop& of_thread,
                 buf::OpenBounceAccount account)
      : image(of_image),
        info(of_disk),
        loop(of_thread),
        file(of_thread.register_file(of_image.io().get())),
        bounce(std::move(account)),
        registered_bounce(of_thread.registered_buffers(), *bounce, of_image.bounce_registration(),
                          of_image.name()),
        max_bounce_per_call(std::clamp(bounce->share().limit() / 4, std::uint64_t{2 * kPageSize},
                                       std::uint64_t{buf::BouncePool::kSlabBytes})) {
    GUESTIO_CHECK(max_bounce_per_call <= bounce->max_grant(),
                  "bounce memory for at least two pages");
  }
  ChannelContext(const ChannelContext&) = delete;
  ChannelContext& operator=(const ChannelContext&) = delete;
  ~ChannelContext() { loop.unregister_file(file); }

  /// Writes may cover part of a direct I/O block, so writes claim their blocks (BlockGuard).
  [[nodiscard]] bool needs_guard() const noexcept {
    const std::uint64_t least = serves_sectors ? Sector::kSize : info.block_size.raw();
    return least < image.limits().block();
  }
  /// An attempt ended with `result`: whether to pause and retry.
  [[nodiscard]] bool should_retry(ShortageRetry& retry, std::int32_t result) noexcept {
    if (!is_shortage(result)) return false;
    image.report_shortage(-result);
    return retry.count_shortage();
  }

  ImageFile& image;
  const DiskInfo& info;
  uring::Loop& loop;
  const uring::File file;
  buf::OpenBounceAccount bounce;
  RegisteredBounce registered_bounce;
  const std::size_t max_bounce_per_call;  // leaves bounce memory to other requests
  buf::TransferPlan::Policy policy = buf::TransferPlan::Policy::kDirectWherePossible;
  bool serves_sectors = false;  // after the first request of Granularity::kSectors
  buf::BounceCounters counters;
  Counter direct_calls;
  Shortages shortages;
};

}  // namespace guestio::disk
