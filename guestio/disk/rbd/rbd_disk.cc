// SPDX-License-Identifier: MIT
#include "guestio/disk/rbd/rbd_disk.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "guestio/base/align.h"
#include "guestio/base/log.h"
#include "guestio/disk/rbd/rbd_channel.h"

namespace guestio::disk {

namespace {

constexpr std::string_view kClaimed = "claimed 1\n";

/// A discard of less frees nothing, by default 64 KiB.
std::uint64_t discard_granularity(const RbdImage& image) {
  const std::string text = image.connection().setting("rbd_discard_granularity_bytes");
  std::uint64_t bytes = 0;
  std::from_chars(text.data(), text.data() + text.size(), bytes);
  return std::max<std::uint64_t>(bytes, Sector::kSize);
}

DiskInfo describe_image(const OpenOptions& options, const RbdImage& image, std::uint64_t bytes) {
  DiskInfo info;
  info.size = ByteCount(align_down(bytes, options.block_size.raw()));
  if (info.size.raw() != bytes) {
    log::warning("{}: partial last block hidden from the guest ({} bytes, block size {})",
                 options.name, bytes - info.size.raw(), options.block_size.raw());
  }
  info.block_size = options.block_size;
  info.physical_block_size = ByteCount(kPageSize);
  info.is_read_only = options.is_read_only;
  constexpr std::uint64_t kMaxDiscard = std::uint64_t{1} << 30;
  info.discard = RangeLimits{ByteCount(kMaxDiscard), ByteCount(discard_granularity(image))};
  return info;
}

/// A command of this size touches at most 65 objects of 4 MiB at once.
constexpr std::uint64_t kMaxRange = std::uint64_t{256} << 20;

}  // namespace

RbdDisk::RbdDisk(const OpenOptions& options, std::shared_ptr<RbdSession> session,
                 const DiskInfo& info, const RemoteLimits& limits)
    : RemoteDisk(options.name, info, limits),
      session_(std::move(session)),
      is_claimed_in_use_(options.is_claimed_in_use) {}

OpenResult<std::shared_ptr<RbdDisk>> RbdDisk::make(const OpenOptions& options,
                                                   std::shared_ptr<RbdSession> session,
                                                   const RbdImage& image, ByteCount served) {
  const auto size = image.size();
  if (!size) return std::unexpected(OpenFailure{size.error(), {}});
  const std::uint64_t known = served == ByteCount(0) ? *size : served.raw();
  const DiskInfo info = describe_image(options, image, known);
  if (info.size == ByteCount(0) || *size < known) {
    return std::unexpected(OpenFailure{
        Error::make(ErrorKind::kInvalidArgument, "size of the image", *size, known), {}});
  }
  const RemoteLimits limits{.max_range = kMaxRange,
                            .alignment = Sector::kSize,
                            // Without a cache every completed write is durable. Flushes go to
                            // librbd all the same, where they cost nothing.
                            .has_fua = !image.has_cache()};
  if (!limits.has_fua) {
    log::warning("{}: rbd_cache is on for this image: remove it from its metadata", options.name);
  }
  const std::shared_ptr<RbdDisk> disk(new RbdDisk(options, std::move(session), info, limits));
  // The session ends the calls before the disk goes.
  disk->session_->start([self = disk.get()](ByteCount bytes) { self->announce_size(bytes); });
  disk->announce_size(ByteCount(*size));
  return disk;
}

RbdDisk::~RbdDisk() { session_->close(); }

Result<std::unique_ptr<Channel>> RbdDisk::open_channel(uring::Loop& loop, ByteCount bounce_limit) {
  auto account = open_account(loop, bounce_limit);
  if (!account) return fail(account.error());
  return std::make_unique<RbdChannel>(*this, session_, loop, std::move(*account));
}

DiskStatus RbdDisk::status() const {
  DiskStatus status;
  status.backend = "rbd";
  session_->fill_status(status);
  return status;
}

Result<> RbdDisk::claim() {
  if (is_claimed_in_use_) session_->claim();
  return {};
}

void RbdDisk::release() noexcept {
  // Writes are durable at completion: there is nothing to flush.
  if (is_claimed_in_use_) session_->release();
}

Result<DiskSnapshot> RbdDisk::snapshot() const {
  DiskSnapshot snapshot;
  snapshot.size = info().size;
  snapshot.backend_state = session_->record().to_text();
  if (session_->is_claimed()) snapshot.backend_state += kClaimed;
  return snapshot;
}

Result<> RbdDisk::restore(DiskSnapshot latest) {
  if (latest.backend_state.contains(kClaimed)) {
    session_->claim_from(LockRecord::from_text(latest.backend_state));
  }
  return {};
}

}  // namespace guestio::disk
