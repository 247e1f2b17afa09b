// SPDX-License-Identifier: MIT
// A guest asks its disk for 16 KiB into a buffer that is one piece to the guest's program and four
// pages anywhere to its device. The file is read straight into these pages with one system call:
// no byte is copied by us.
//
// Shown here:
//   - a PagedRange names the pages, and a RequestBuffers gives the name a memory and a direction;
//   - lock() turns guest addresses into what the kernel takes, joining pages that are neighbours;
//   - mark_written() is said once the kernel has written, for live migration;
//   - a RequestReader reads the bytes in the order that the guest's program sees.
#include <sys/uio.h>

#include <array>
#include <vector>

#include "example.h"
#include "guestio/base/standard_fds.h"
#include "guestio/buf/request_buffers.h"
#include "guestio/disk/file/file_limits.h"
#include "guestio/mem/recover.h"

using namespace guestio;
using example::expect;
using example::value_of;

int main() {
  guestio::open_standard_fds();
  expect(mem::install_fault_recovery(), "prepare for memory that goes away");
  const auto memory = value_of(mem::GuestMemory::allocate(ByteCount(16 * kPageSize)), "a guest");

  //! [a paged range]
  // As the guest sent it: pages 7, 8, 3 and 5, in this order; all bytes of them.
  const std::array gpns = {Gpn(7), Gpn(8), Gpn(3), Gpn(5)};
  const auto range = value_of(mem::PagedRange::from_pages(0, 4 * kPageSize, gpns), "the pages");
  //! [a paged range]

  //! [direct read]
  // A disk read writes guest memory.
  const buf::RequestBuffers buffers(memory, range, buf::MemoryAccess::kWritable);

  const UniqueFd file = example::make_file(buffers.size());
  const auto limits = value_of(disk::probe_file(file.get()), "ask the file").direct;
  expect(buffers.is_aligned(limits.memory_alignment), "the file takes these pages as they lie");

  const auto locked = value_of(buffers.lock(buf::MemoryAccess::kWritable), "lock");
  const auto iovecs = buf::as_iovecs(locked.segments());
  const ssize_t got = ::preadv(file.get(), iovecs.data(), static_cast<int>(iovecs.size()), 0);
  expect(buffers.mark_written(), "tell the dirty log");
  //! [direct read]
  expect(got == static_cast<ssize_t>(buffers.size()), "the whole request is read at once");

  // Pages 7 and 8 are one segment.
  for (const buf::IoBuffer& segment : locked.segments()) {
    fmt::print("{:5} bytes at {}\n", segment.length, fmt::ptr(segment.data));
  }
  expect(locked.segments().size() == 3, "four pages are three segments");

  //! [reader]
  // In the order of the request, whatever order the pages have in memory.
  auto reader = buffers.reader();
  std::vector<std::byte> seen(buffers.size());
  expect(reader.read(seen), "read it back");
  expect(reader.remaining() == 0, "nothing is left");
  //! [reader]
  expect(example::is_from_file(seen, 0), "the guest's program sees the file");

  // The guest's other memory is as it was: page 4 lies between two that were written.
  std::array<std::byte, kPageSize> other{};
  const std::array<std::byte, kPageSize> zeros{};
  expect(memory.read(Gpa(4 * kPageSize), other), "read page 4");
  expect(other == zeros, "page 4 was not touched");
  fmt::print("read {} bytes directly\n", got);
}
