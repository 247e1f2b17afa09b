// SPDX-License-Identifier: MIT
#include "guestio/disk/file/file_channel.h"

#include <utility>

#include "guestio/disk/probe/lifetime.h"

namespace guestio::disk {

Result<std::unique_ptr<FileChannel>> FileChannel::create(ImageFile& image, const DiskInfo& info,
                                                         uring::Loop& loop,
                                                         ByteCount bounce_limit) {
  auto bounce = image.bounce_tracker().open_account(
      buf::BounceShare::of(bounce_limit),
      [&loop](buf::BounceAccount& account) { loop.post([&account] { account.serve(); }); });
  if (!bounce) return fail(bounce.error());
  std::unique_ptr<uring::IopollRing> iopoll_ring;
  if (image.completion() == Completion::kPolled) {
    auto made = uring::IopollRing::create(loop);
    if (!made) return fail(made.error());
    iopoll_ring = std::move(*made);
  }
  return std::unique_ptr<FileChannel>(
      new FileChannel(image, info, loop, std::move(*bounce), std::move(iopoll_ring)));
}

void FileChannel::start(Io& io) noexcept {
  if (auto checked = check_io(context_.info, io); !checked) return io.on_done(checked);
  if (io.granularity == Granularity::kSectors) context_.serves_sectors = true;
  if (!try_fast_path(io)) slow_path_.start(io);
  submit_early();
}

bool FileChannel::try_fast_path(Io& io) noexcept {
  const bool is_transfer = io.kind == IoKind::kRead || io.kind == IoKind::kWrite;
  const bool may_need_claim = io.kind == IoKind::kWrite && context_.needs_guard();
  if (!is_transfer || may_need_claim || io.length == 0 ||
      context_.policy != buf::TransferPlan::Policy::kDirectWherePossible) {
    return false;
  }
  return fast_path_.try_start(io);
}

/// An idle disk does not wait for the end of a long batch: operations are submitted as soon as they
/// are as many as the disk has in flight. So an idle disk gets a batch in parts of doubling size,
/// and a busy disk gets it as a whole.
void FileChannel::submit_early() noexcept {
  constexpr unsigned kMinOperations = 2;
  const std::size_t ready = context_.loop.unsubmitted();
  if (ready >= kMinOperations && 2 * ready >= context_.loop.in_flight()) context_.loop.submit();
}

Result<Lifetime> FileChannel::lifetime() {
  if (const auto& folder = context_.image.lifetime_folder()) {
    if (const auto known = read_lifetime(*folder)) return *known;
  }
  return Channel::lifetime();
}

ChannelStatistics FileChannel::statistics() const noexcept {
  ChannelStatistics all{.transfers = fast_path_.counters(),
                        .bounce = context_.bounce->statistics(),
                        .direct_calls = fast_path_.direct_calls() + context_.direct_calls,
                        .shortages = context_.shortages.met};
  all.transfers.plans += context_.counters.plans;
  all.transfers.direct_bytes += context_.counters.direct_bytes;
  all.transfers.bounced.add(context_.counters.bounced);
  return all;
}

}  // namespace guestio::disk
