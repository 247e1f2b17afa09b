// SPDX-License-Identifier: MIT
#include "guestio/disk/ram_disk.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "guestio/base/align.h"

namespace guestio::disk {

/// Channel of one thread.
class RamDisk::RamDiskChannel final : public Channel {
 public:
  explicit RamDiskChannel(const RamDisk& disk) noexcept : disk_(disk) {}
  void start(Io& io) noexcept override { io.on_done(perform(io)); }

 private:
  Result<> perform(Io& io) noexcept {
    if (auto checked = check_io(disk_.info_, io); !checked) return checked;
    if (io.kind == IoKind::kFlush) return {};
    const auto range = disk_.memory_.bytes().subspan(io.offset.raw(), io.length);
    switch (io.kind) {
      case IoKind::kRead: return io.buffers.writer().write(range);
      case IoKind::kWrite: return io.buffers.reader().read(range);
      default: return erase(io.offset.raw(), range);
    }
  }
  /// Frees whole pages, and zeroes the rest.
  Result<> erase(std::uint64_t offset, std::span<std::byte> range) noexcept {
    const std::uint64_t end = offset + range.size();
    const std::uint64_t first = align_up(offset, kPageSize);
    const std::uint64_t last = align_down(end, kPageSize);
    if (first >= last) {
      std::memset(range.data(), 0, range.size());
      return {};
    }
    std::memset(range.data(), 0, first - offset);
    std::memset(range.data() + (last - offset), 0, end - last);
    const int punched = ::fallocate(disk_.file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                    static_cast<off_t>(first), static_cast<off_t>(last - first));
    if (punched != 0) return fail_host("free memory of a ram disk");
    return {};
  }

  const RamDisk& disk_;
};

RamDisk::RamDisk(const DiskInfo& info, UniqueFd file, Mapping memory) noexcept
    : info_(info), file_(std::move(file)), memory_(std::move(memory)) {}

Result<std::unique_ptr<RamDisk>> RamDisk::create(const RamDiskOptions& options) {
  if (auto checked = check_block_size(options.block_size); !checked) return fail(checked.error());
  const std::uint64_t size = align_down(options.size.raw(), options.block_size.raw());
  if (size == 0) {
    return fail(ErrorKind::kInvalidArgument, "size of a ram disk", options.size.raw());
  }
  UniqueFd file(::memfd_create("guestio-ram-disk", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file) return fail_host("make memory for a ram disk");
  if (::ftruncate(file.get(), static_cast<off_t>(size)) != 0) {
    return fail_host("size the memory of a ram disk");
  }
  // A shorter file would end its users with SIGBUS.
  if (::fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return fail_host("seal the memory of a ram disk");
  }
  return make(options, std::move(file));
}

Result<std::unique_ptr<RamDisk>> RamDisk::take_over(const RamDiskOptions& options,
                                                    DiskSnapshot snapshot) {
  const int seals = snapshot.io ? ::fcntl(snapshot.io.get(), F_GET_SEALS) : -1;
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
    return fail(ErrorKind::kInvalidArgument, "the file of a ram disk");
  }
  return make(options, std::move(snapshot.io));
}

Result<std::unique_ptr<RamDisk>> RamDisk::make(const RamDiskOptions& options, UniqueFd file) {
  constexpr RangeLimits kUnlimited{ByteCount(std::uint64_t{1} << 40), ByteCount(512)};
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) return fail_host("size of a ram disk");
  DiskInfo info;
  info.size =
      ByteCount(align_down(static_cast<std::uint64_t>(status.st_size), options.block_size.raw()));
  if (info.size == ByteCount(0)) return fail(ErrorKind::kInvalidArgument, "size of a ram disk");
  info.block_size = options.block_size;
  info.physical_block_size = ByteCount(kPageSize);
  info.is_read_only = options.is_read_only;
  if (!options.is_read_only) {
    info.discard = kUnlimited;
    info.write_zeroes = kUnlimited;
    info.secure_erase = kUnlimited;
  }
  auto memory =
      Mapping::shared_file(file.get(), FileOffset(0), info.size.raw(), Mapping::Access::kReadWrite);
  if (!memory) return fail(memory.error());
  return std::unique_ptr<RamDisk>(new RamDisk(info, std::move(file), std::move(*memory)));
}

Result<std::unique_ptr<Channel>> RamDisk::open_channel(uring::Loop&, ByteCount) {
  return std::make_unique<RamDiskChannel>(*this);
}

Result<ByteCount> RamDisk::refresh_size() {
  return fail(ErrorKind::kUnsupported, "resize of a ram disk");
}

DiskStatus RamDisk::status() const {
  DiskStatus status;
  status.backend = "ram";
  return status;
}

Result<DiskSnapshot> RamDisk::snapshot() const {
  auto file = duplicate_fd(file_.get());
  if (!file) return fail(file.error());
  DiskSnapshot snapshot;
  snapshot.io = std::move(*file);
  snapshot.size = info_.size;
  return snapshot;
}

}  // namespace guestio::disk
