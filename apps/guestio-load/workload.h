// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <random>

#include "apps/guestio-load/arguments.h"
#include "guestio/base/error.h"
#include "guestio/base/units.h"
#include "guestio/virtio/blk_layout.h"

namespace guestio::load {

/// A region of a disk.
struct DiskRegion {
  FileOffset start;
  ByteCount size;
};

/// The region of --offset and --size, in whole blocks. Without a size it extends to the end of the
/// disk, or over `default_size` bytes. Errors: out of range (beyond the disk), too large (region
/// smaller than a block).
Result<DiskRegion> region_of(FileOffset offset, std::optional<ByteCount> size, ByteCount capacity,
                             ByteCount block, std::optional<ByteCount> default_size = std::nullopt);

/// The requests of one job. Sequential jobs start evenly spaced over the region and wrap around at
/// its end.
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
  std::uint64_t position_;  // of the next sequential block
  std::mt19937_64 engine_;
};

}  // namespace guestio::load
