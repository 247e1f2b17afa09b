// SPDX-License-Identifier: MIT
#include "guestio/disk/null_disk.h"

#include "guestio/base/align.h"

namespace guestio::disk {

DiskInfo make_null_disk_info(ByteCount size) noexcept {
  constexpr RangeLimits kUnlimited{ByteCount(std::uint64_t{1} << 40), ByteCount(512)};
  DiskInfo info;
  info.size = ByteCount(align_down(size.raw(), Sector::kSize));
  info.discard = kUnlimited;
  info.write_zeroes = kUnlimited;
  return info;
}

Result<std::unique_ptr<NullDisk>> NullDisk::create(const NullDiskOptions& options) {
  if (auto checked = check_block_size(options.block_size); !checked) return fail(checked.error());
  DiskInfo info =
      make_null_disk_info(ByteCount(align_down(options.size.raw(), options.block_size.raw())));
  if (info.size == ByteCount(0)) {
    return fail(ErrorKind::kInvalidArgument, "size of a null disk", options.size.raw());
  }
  info.block_size = options.block_size;
  info.physical_block_size = options.block_size;
  info.is_read_only = options.is_read_only;
  return std::unique_ptr<NullDisk>(new NullDisk(info));
}

Result<std::unique_ptr<Channel>> NullDisk::open_channel(uring::Loop&, ByteCount) {
  return std::make_unique<NullChannel>(info_);
}

Result<ByteCount> NullDisk::refresh_size() {
  return fail(ErrorKind::kUnsupported, "resize of a null disk");
}

DiskStatus NullDisk::status() const {
  DiskStatus status;
  status.backend = "null";
  return status;
}

}  // namespace guestio::disk
