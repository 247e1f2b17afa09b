// SPDX-License-Identifier: MIT
#include "image.h"

#include <bit>

#include "guestio/base/align.h"
#include "guestio/disk/file/file_disk.h"
#include "guestio/disk/null_disk.h"

namespace guestio::app {

namespace {

// A file of such a name is reached as "./null:1G".
constexpr std::string_view kNullPrefix = "null:";

disk::BounceRegistration to_bounce_memory(FixedBuffers wanted) noexcept {
  switch (wanted) {
    case FixedBuffers::kAuto: return disk::BounceRegistration::kIfUnlimited;
    case FixedBuffers::kOn: return disk::BounceRegistration::kRegistered;
    case FixedBuffers::kOff: break;
  }
  return disk::BounceRegistration::kPlain;
}

}  // namespace

namespace {

disk::FileDiskOptions to_file_options(const DiskOptions& options) {
  return {
      .path = options.image,
      .name = options.label(),
      .use = options.is_read_only ? disk::ImageAccess::kRead : disk::ImageAccess::kReadWrite,
      .caching = options.is_buffered ? disk::Caching::kBuffered : disk::Caching::kDirect,
      .block_size = options.block_size,
      .completion = options.polls_device ? disk::Completion::kPolled : disk::Completion::kInterrupt,
      .bounce_registration = to_bounce_memory(options.fixed_buffers),
      .claim_mode = options.claim_mode,
      .format_check =
          options.is_known_raw ? disk::FormatCheck::kNone : disk::FormatCheck::kRefuseForeign};
}

}  // namespace

Result<Image> Image::open(const DiskOptions& options) {
  const std::string_view name = options.image;
  if (name.starts_with(kNullPrefix)) return make_null(name.substr(kNullPrefix.size()), options);
  auto opened = disk::FileDisk::open(to_file_options(options));
  if (!opened) return fail(opened.error());
  return over(std::move(*opened), options);
}

Result<Image> Image::adopt(const DiskOptions& options, disk::DiskSnapshot state) {
  if (options.image.starts_with(kNullPrefix)) return open(options);
  auto adopted = disk::FileDisk::adopt(to_file_options(options), std::move(state));
  if (!adopted) return fail(adopted.error());
  return over(std::move(*adopted), options);
}

Image Image::over(std::shared_ptr<disk::FileDisk> disk, const DiskOptions& options) {
  Image image(
      disk->info(),
      [disk, limit = options.bounce_limit](uring::Loop& loop) {
        return disk->open_channel(loop, limit);
      },
      [disk] { return disk->refresh_size(); });
  image.claim_ = [disk] { return disk->claim(); };
  image.release_ = [disk] { disk->release(); };
  image.state_ = [disk] { return disk->state(); };
  image.catch_up_ = [disk](UniqueFd claim, int lost_by) {
    return disk->restore(std::move(claim), lost_by);
  };
  return image;
}

Result<Image> Image::make_null(std::string_view size, const DiskOptions& options) {
  const std::uint64_t block = options.block_size.raw();
  if (!std::has_single_bit(block) || block < Sector::kSize || block > kPageSize) {
    return fail(ErrorKind::kInvalidArgument, "block size (512, 1024, 2048 or 4096)", block);
  }
  const auto bytes = parse_byte_count(size);
  if (!bytes) return fail(ErrorKind::kInvalidArgument, "size of a null disk (as in null:1G)");
  disk::DiskInfo info = disk::make_null_disk_info(ByteCount(align_down(bytes->raw(), block)));
  if (info.size == ByteCount(0)) {
    return fail(ErrorKind::kInvalidArgument, "size of a null disk", bytes->raw());
  }
  info.block_size = options.block_size;
  info.physical_block_size = options.block_size;
  info.is_read_only = options.is_read_only;
  return Image(
      info,
      [info](uring::Loop&) -> Result<std::unique_ptr<disk::Channel>> {
        return std::make_unique<disk::NullChannel>(info);
      },
      []() -> Result<ByteCount> {
        return fail(ErrorKind::kUnsupported, "another size of a null disk");
      });
}

}  // namespace guestio::app
