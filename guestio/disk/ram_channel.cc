// SPDX-License-Identifier: MIT
#include "guestio/disk/ram_channel.h"

#include <cstring>

namespace guestio::disk {

Result<std::unique_ptr<RamChannel>> RamChannel::create(ByteCount size) {
  constexpr RangeLimits kUnlimited{ByteCount(std::uint64_t{1} << 40), ByteCount(512)};
  DiskInfo info;
  info.size = ByteCount(align_down(size.raw(), Sector::kSize));
  info.discard = kUnlimited;
  info.write_zeroes = kUnlimited;
  info.secure_erase = kUnlimited;
  if (info.size == ByteCount(0)) {
    return fail(ErrorKind::kInvalidArgument, "size of a ram disk", size.raw());
  }
  auto memory = Mapping::anonymous(info.size.raw());
  if (!memory) return fail(memory.error());
  return std::unique_ptr<RamChannel>(new RamChannel(std::move(*memory), info));
}

void RamChannel::start(Io& io) noexcept { io.on_done(perform(io)); }

Result<> RamChannel::perform(Io& io) noexcept {
  if (auto checked = check_io(info_, io); !checked) return checked;
  if (io.kind == IoKind::kFlush) return {};
  const std::span<std::byte> range = bytes().subspan(io.offset.raw(), io.length);
  switch (io.kind) {
    case IoKind::kRead: return io.buffers.writer().write(range);
    case IoKind::kWrite: return io.buffers.reader().read(range);
    case IoKind::kDiscard:
    case IoKind::kSecureErase:
    case IoKind::kWriteZeroes: std::memset(range.data(), 0, range.size()); return {};
    case IoKind::kFlush: return {};
  }
  return fail(ErrorKind::kUnsupported, "disk operation");
}

}  // namespace guestio::disk
