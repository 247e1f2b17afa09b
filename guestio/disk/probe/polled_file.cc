// SPDX-License-Identifier: MIT
#include "guestio/disk/probe/polled_file.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "guestio/base/align.h"
#include "guestio/base/mapping.h"
#include "guestio/base/units.h"
#include "guestio/disk/probe/written_block.h"
#include "guestio/uring/ring.h"

namespace guestio::disk {

namespace {

Result<std::int32_t> read_polled(int fd, std::span<std::byte> to, std::uint64_t offset) {
  auto ring = uring::Ring::create({.sq_entries = 1,
                                   .cq_entries = 2,
                                   .mode = uring::RingMode::kPlain,
                                   .completion = uring::Completion::kPolled});
  if (!ring) return fail(ring.error());
  ::io_uring_prep_read(ring->next_sqe(), fd, to.data(), static_cast<unsigned>(to.size()), offset);
  do ring->enter(uring::Ring::Wait::kNo);
  while (ring->completions_ready() == 0);
  return ring->pop_completion().res;
}

}  // namespace

Result<> check_polled_reads(int fd, std::uint64_t size, std::uint64_t block) {
  const std::uint64_t bytes = std::max(std::uint64_t{kPageSize}, block);
  const auto written = find_data_offset(fd);
  if (!written || size < bytes) {
    return fail(ErrorKind::kUnsupported, "polling a file without written blocks");
  }
  const std::uint64_t offset =
      std::min(align_down(*written, bytes), align_down(size - bytes, bytes));
  auto buffers = Mapping::anonymous(2 * bytes);
  if (!buffers) return fail(buffers.error());
  const auto polled = buffers->bytes().first(bytes);
  const auto plain = buffers->bytes().last(bytes);
  const auto got = read_polled(fd, polled, offset);
  if (!got) return fail(got.error());
  const auto whole = static_cast<std::int32_t>(bytes);
  if (*got == -EOPNOTSUPP) return fail(ErrorKind::kUnsupported, "polling this file's device");
  if (*got < 0) return fail(Error::host(-*got, "poll a read of the image"));
  // Compares the bytes, too: success alone proves little.
  if (*got != whole || ::pread(fd, plain.data(), bytes, static_cast<off_t>(offset)) != whole ||
      std::memcmp(polled.data(), plain.data(), bytes) != 0) {
    return fail(ErrorKind::kUnsupported, "polling this file: corrupted read");
  }
  return {};
}

}  // namespace guestio::disk
