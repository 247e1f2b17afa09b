// SPDX-License-Identifier: MIT
#include "guestio/disk/null_disk.h"

namespace guestio::disk {

DiskInfo make_null_disk_info(ByteCount size) noexcept {
  constexpr RangeLimits kAnything{ByteCount(std::uint64_t{1} << 40), ByteCount(512)};
  DiskInfo info;
  info.size = ByteCount(align_down(size.raw(), Sector::kSize));
  info.discard = kAnything;
  info.write_zeroes = kAnything;
  return info;
}

}  // namespace guestio::disk
