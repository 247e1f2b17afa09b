// SPDX-License-Identifier: MIT
#include "apps/guestio-load/workload.h"

#include <algorithm>

#include "guestio/base/align.h"

namespace guestio::load {

Result<DiskRegion> region_of(FileOffset offset, std::optional<ByteCount> size, ByteCount capacity,
                             ByteCount block, std::optional<ByteCount> default_size) {
  if (offset.raw() >= capacity.raw()) {
    return fail(ErrorKind::kOutOfRange, "--offset", offset.raw(), capacity.raw());
  }
  const std::uint64_t rest = capacity.raw() - offset.raw();
  if (size && size->raw() > rest) {
    return fail(ErrorKind::kOutOfRange, "--size", size->raw(), rest);
  }
  const std::uint64_t wanted =
      size ? size->raw() : std::min(rest, default_size.value_or(ByteCount(rest)).raw());
  const std::uint64_t whole = wanted - wanted % block.raw();
  if (whole == 0) return fail(ErrorKind::kTooLarge, "block in the region", block.raw(), wanted);
  return DiskRegion{offset, ByteCount(whole)};
}

Workload::Workload(const RunArguments& arguments, DiskRegion region, std::uint32_t job)
    : rw_(arguments.rw),
      read_percent_(arguments.read_percent),
      region_(region),
      block_size_(arguments.block_size.raw()),
      blocks_(region.size.raw() / block_size_),
      position_(blocks_ / arguments.jobs * job % blocks_),
      // Distant seeds per job; the seeding of the generator spreads them further.
      engine_(arguments.seed + job * 0x9e3779b97f4a7c15) {}

Workload::Next Workload::next() {
  const auto type = is_read() ? virtio::blk::RequestType::kIn : virtio::blk::RequestType::kOut;
  return {type, region_.start.plus_unchecked(next_block() * block_size_)};
}

bool Workload::is_read() {
  switch (rw_) {
    case ReadWrite::kRead:
    case ReadWrite::kRandRead: return true;
    case ReadWrite::kWrite:
    case ReadWrite::kRandWrite: return false;
    case ReadWrite::kRandRw:
      return std::uniform_int_distribution<unsigned>(0, 99)(engine_) < read_percent_;
  }
  return true;
}

std::uint64_t Workload::next_block() {
  if (rw_ == ReadWrite::kRead || rw_ == ReadWrite::kWrite) {
    const std::uint64_t block = position_;
    position_ = position_ + 1 == blocks_ ? 0 : position_ + 1;
    return block;
  }
  return std::uniform_int_distribution<std::uint64_t>(0, blocks_ - 1)(engine_);
}

}  // namespace guestio::load
