// SPDX-License-Identifier: MIT
#include "guestio/disk/ram_disk.h"

#include <cstring>

namespace guestio::disk {

Result<std::unique_ptr<RamDisk>> RamDisk::create(ByteCount size) {
  constexpr RangeLimits kAnything{ByteCount(std::uint64_t{1} << 40), ByteCount(512)};
  DiskInfo info;
  info.size = ByteCount(align_down(size.raw(), Sector::kSize));
  info.discard = kAnything;
  info.write_zeroes = kAnything;
  info.secure_erase = kAnything;
  if (info.size == ByteCount(0)) {
    return fail(ErrorKind::kInvalidArgument, "size of a ram disk", size.raw());
  }
  auto memory = Mapping::anonymous(info.size.raw());
  if (!memory) return fail(memory.error());
  return std::unique_ptr<RamDisk>(new RamDisk(std::move(*memory), info));
}

void RamDisk::start(Io& io) noexcept { io.on_done(perform(io)); }

Result<> RamDisk::perform(Io& io) noexcept {
  if (auto checked = check_io(info_, io); !checked) return checked;
  if (io.kind == IoKind::kFlush) return {};
  const std::span<std::byte> place = bytes().subspan(io.offset.raw(), io.length);
  switch (io.kind) {
    case IoKind::kRead: return io.buffers.writer().write(place);
    case IoKind::kWrite: return io.buffers.reader().read(place);
    case IoKind::kDiscard:
    case IoKind::kSecureErase:
    case IoKind::kWriteZeroes: std::memset(place.data(), 0, place.size()); return {};
    case IoKind::kFlush: return {};
  }
  return fail(ErrorKind::kUnsupported, "disk operation");
}

}  // namespace guestio::disk
