// SPDX-License-Identifier: MIT
#include "guestio/disk/remote/remote_disk.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "guestio/base/align.h"
#include "guestio/base/check.h"

namespace guestio::disk {

namespace {

DiskInfo complete_info(DiskInfo info, const RemoteLimits& limits) {
  GUESTIO_CHECK(std::has_single_bit(limits.alignment), "an alignment that is a power of two");
  GUESTIO_CHECK(is_aligned(info.size.raw(), limits.alignment), "a size in whole blocks");
  GUESTIO_CHECK(limits.max_transfer >= limits.alignment && limits.max_range >= limits.alignment,
                "commands of at least one block");
  info.is_remote = true;
  info.physical_block_size = ByteCount(
      std::max({info.physical_block_size.raw(), info.block_size.raw(), limits.alignment}));
  if (info.is_read_only) {
    info.discard.reset();
    info.write_zeroes.reset();
  } else if (!info.write_zeroes) {
    // Several commands serve a large one; emulated ones must not take too long.
    constexpr std::uint64_t kEmulated = std::uint64_t{16} << 20;
    const std::uint64_t most =
        limits.has_write_zeroes ? std::max(limits.max_range, kEmulated) : kEmulated;
    info.write_zeroes = RangeLimits{
        ByteCount(most), ByteCount(std::max<std::uint64_t>(limits.alignment, Sector::kSize))};
  }
  return info;
}

}  // namespace

RemoteDisk::RemoteDisk(std::string name, const DiskInfo& info, const RemoteLimits& limits)
    : name_(std::move(name)),
      info_(complete_info(info, limits)),
      limits_(limits),
      announced_size_(info_.size.raw()) {}

Result<ByteCount> RemoteDisk::refresh_size() {
  const std::uint64_t unit = std::max(info_.block_size.raw(), limits_.alignment);
  const ByteCount size(align_down(announced_size_.load(), unit));
  if (size < ByteCount(info_.size)) {
    return fail(ErrorKind::kUnsupported, "an image that shrank", size.raw(), info_.size.raw());
  }
  info_.size = size;
  return size;
}

void RemoteDisk::on_size_change(std::move_only_function<void()> changed) {
  const std::lock_guard lock(mutex_);
  size_changed_ = std::move(changed);
}

void RemoteDisk::announce_size(ByteCount size) {
  if (announced_size_.exchange(size.raw()) == size.raw()) return;
  const std::lock_guard lock(mutex_);
  if (size_changed_) size_changed_();
}

Result<buf::OpenBounceAccount> RemoteDisk::open_account(uring::Loop& loop, ByteCount bounce_limit) {
  return bounce_tracker_.open_account(
      buf::BounceShare::of(bounce_limit),
      [&loop](buf::BounceAccount& account) { loop.post([&account] { account.serve(); }); });
}

}  // namespace guestio::disk
