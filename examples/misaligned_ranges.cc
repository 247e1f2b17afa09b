// SPDX-License-Identifier: MIT
// A guest reads 28 KiB into three misaligned buffers. Two buffer boundaries fall inside blocks of
// the file, and one buffer starts 100 bytes after a page boundary, which direct I/O rejects. Most
// of the request is still read directly into guest memory. Only the two misaligned blocks go
// through bounce pages, in the same system call.
//
// Shown here:
//   - extents, like the descriptors of a virtio chain, form one sequence of bytes;
//   - a TransferPlan decides which bytes go direct and which are bounced, with reason and count;
//   - copy_out() copies the bounced bytes to their extents, and only those read from the file:
//   bounce
//     memory is not cleared.
#include <sys/uio.h>

#include <array>
#include <vector>

#include "example.h"
#include "guestio/base/standard_fds.h"
#include "guestio/buf/bounce_buffer.h"
#include "guestio/buf/request_buffers.h"
#include "guestio/buf/transfer_plan.h"
#include "guestio/mem/recover.h"

using namespace guestio;
using example::expect;
using example::value_of;

namespace {

constexpr std::uint64_t kBlock = 4096;

/// Prints the guest addresses of the request bytes [offset, offset + size).
void print_guest_bytes(const buf::RequestBuffers& buffers, std::uint64_t offset, std::size_t size) {
  const auto part = buffers.subrange(offset, size);
  const auto print = [](mem::AddressRange run) -> Result<> {
    fmt::print("      guest {:#x}, {} bytes\n", run.start().raw(), run.length());
    return {};
  };
  expect(mem::for_each_run(part.range(), print), "walk the guest addresses");
}

}  // namespace

int main() {
  guestio::open_standard_fds();
  expect(mem::install_fault_recovery(), "install fault recovery");
  const auto memory =
      value_of(mem::GuestMemory::allocate(ByteCount(64 * kPageSize)), "guest memory");

  //! [extents]
  const auto extent = [](std::uint64_t start, std::uint64_t length) {
    return value_of(mem::AddressRange::from_start_and_length(Gpa(start), length), "an extent");
  };
  const std::array extents = {
      extent(0x4000, 2 * kBlock + 1024),         // ends inside block 2
      extent(0x9000 + 100, kBlock + 1024),       // misaligned by 100; ends inside block 3
      extent(0x20000 + 2048, 3 * kBlock + 2048)  // aligned from block 4 on
  };
  const auto buffers = value_of(
      buf::RequestBuffers::from_extents(memory, extents, buf::MemoryAccess::kWritable), "extents");
  //! [extents]
  const UniqueFd file = example::make_file(buffers.size());

  //! [plan]
  // Limits of a file with 4096-byte blocks. For real files: probe_file().
  const buf::DirectIoLimits limits{
      .memory_alignment = kBlock, .length_alignment = kBlock, .offset_alignment = kBlock};
  const auto locked = value_of(buffers.lock(buf::MemoryAccess::kWritable), "lock");
  const buf::SegmentCursor cursor(locked.segments());
  const buf::TransferPlan plan({cursor, FileOffset(0), buffers.size()}, limits,
                               {.max_bounce = 16 * kBlock});
  //! [plan]

  std::uint64_t offset = 0;
  for (const auto& piece : plan.pieces()) {
    fmt::print("file {:5} to {:5}: {}\n", offset, offset + piece.size,
               piece.is_bounced() ? "copied, to" : "direct, to");
    print_guest_bytes(buffers, offset, piece.size);
    offset += piece.size;
  }
  expect(plan.pieces().size() == 3, "direct, bounced, direct");
  expect(plan.bounced_bytes() == 2 * kBlock, "two blocks of seven are bounced");
  expect(plan.bounced()[buf::BounceReason::kMisaligned] == kBlock, "block 3 is misaligned by 100");
  expect(plan.bounced()[buf::BounceReason::kSegmentBoundary] == kBlock,
         "block 2 spans two extents");

  //! [execute]
  const auto bounce = value_of(
      buf::BounceBuffer::allocate(plan.bounce_size(), plan.bounce_alignment()), "bounce memory");
  const auto segments = plan.segments(bounce.bytes());
  const auto iovecs = buf::as_iovecs({segments.data(), segments.size()});
  const ssize_t got = ::preadv(file.get(), iovecs.data(), static_cast<int>(iovecs.size()), 0);
  expect(got == static_cast<ssize_t>(plan.file_bytes()), "one call reads everything");
  const auto arrived = static_cast<std::size_t>(got);
  expect(plan.copy_out(cursor, bounce.bytes(), arrived), "copy the two blocks to the guest");
  expect(buffers.mark_written(), "mark the dirty log");
  //! [execute]

  std::vector<std::byte> seen(buffers.size());
  expect(buffers.reader().read(seen), "read it back");
  expect(example::is_from_file(seen, 0), "the guest has the file's bytes, in order");
  fmt::print("{} of {} bytes were copied\n", plan.bounced_bytes(), buffers.size());
}
