// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <random>

#include "apps/guestio-load/arguments.h"
#include "guestio/base/error.h"
#include "guestio/base/units.h"
#include "guestio/virtio/blk_layout.h"

namespace guestio::load {

/// A part of a disk.
struct DiskRegion {
  FileOffset start;
  ByteCount size;
};

/// The part that --offset and --size name, of whole blocks. Without a size it ends with the disk,
/// or after `usual` bytes. Errors: out of range (not on the disk), too large (no whole block in
/// it).
Result<DiskRegion> region_of(FileOffset offset, std::optional<ByteCount> size, ByteCount capacity,
                             ByteCount block, std::optional<ByteCount> usual = std::nullopt);

/// What one job does next, and where. Jobs that go in order begin at different places, evenly over
/// the region; each starts again at the region's start when it has come to the end.
class Workload {
 public:
  struct Next {
    virtio::blk::RequestType type;  ///< kIn or kOut
    FileOffset offset;
  };

  /// Requires: at least one block in the region.
  Workload(const RunArguments& arguments, DiskRegion region, std::uint32_t job);

  Next next();

 private:
  bool is_read();
  std::uint64_t next_block();

  ReadWrite rw_;
  unsigned read_percent_;
  DiskRegion region_;
  std::uint64_t block_size_;
  std::uint64_t blocks_;
  std::uint64_t position_;  // of the next block in order
  std::mt19937_64 engine_;
};

}  // namespace guestio::load
