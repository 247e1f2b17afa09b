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

disk::BounceMemory to_bounce_memory(FixedBuffers wanted) noexcept {
  switch (wanted) {
    case FixedBuffers::kAuto: return disk::BounceMemory::kWhereUnlimited;
    case FixedBuffers::kOn: return disk::BounceMemory::kRegistered;
    case FixedBuffers::kOff: break;
  }
  return disk::BounceMemory::kPlain;
}

}  // namespace

Result<Image> Image::open(const DiskOptions& options) {
  const std::string_view name = options.image;
  if (name.starts_with(kNullPrefix)) return make_null(name.substr(kNullPrefix.size()), options);
  return open_file(options);
}

Result<Image> Image::open_file(const DiskOptions& options) {
  auto opened = disk::FileDisk::open(
      {.path = options.image,
       .use = options.is_read_only ? disk::ImageUse::kRead : disk::ImageUse::kReadWrite,
       .caching = options.is_buffered ? disk::Caching::kBuffered : disk::Caching::kDirect,
       .block_size = options.block_size,
       .completion =
           options.polls_device ? disk::Completion::kPolled : disk::Completion::kInterrupt,
       .bounce_memory = to_bounce_memory(options.fixed_buffers),
       .claiming = options.claiming});
  if (!opened) return fail(opened.error());
  std::shared_ptr<disk::FileDisk> disk = std::move(*opened);
  const disk::DiskInfo info = disk->info();
  Image image(
      info,
      [disk, limit = options.bounce_limit](uring::Loop& loop) {
        return disk->open_channel(loop, limit);
      },
      [disk] { return disk->notice_size(); });
  image.claim_ = [disk] { return disk->claim(); };
  image.release_ = [disk] { disk->release(); };
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
