// SPDX-License-Identifier: MIT
// A guest reads 16 KiB into a buffer that is contiguous in virtual memory and scattered over four
// pages of physical memory. One system call reads the file directly into these pages, without
// copies.
//
// Shown here:
//   - a PagedRange lists the pages, and a RequestBuffers adds memory and direction;
//   - lock() translates guest addresses to host segments and merges adjacent pages;
//   - mark_written() marks the dirty log after the kernel's write, for live migration;
//   - a RequestReader reads the bytes in the order of the request.
#include <sys/uio.h>

#include <array>
#include <vector>

#include "example.h"
#include "guestio/base/standard_fds.h"
#include "guestio/buf/request_buffers.h"
#include "guestio/disk/probe/file_limits.h"
#include "guestio/mem/recover.h"

using namespace guestio;
using example::expect;
using example::value_of;

int main() {
  guestio::open_standard_fds();
  expect(mem::install_fault_recovery(), "install fault recovery");
  const auto memory =
      value_of(mem::GuestMemory::allocate(ByteCount(16 * kPageSize)), "guest memory");

  //! [a paged range]
  // All bytes of pages 7, 8, 3 and 5, in this order.
  const std::array gpns = {Gpn(7), Gpn(8), Gpn(3), Gpn(5)};
  const auto range = value_of(mem::PagedRange::from_pages(0, 4 * kPageSize, gpns), "the pages");
  //! [a paged range]

  //! [direct read]
  // A disk read writes guest memory.
  const buf::RequestBuffers buffers(memory, range, buf::MemoryAccess::kWritable);

  const UniqueFd file = example::make_file(buffers.size());
  const auto limits = value_of(disk::probe_file(file.get()), "probe the file").direct;
  expect(buffers.is_aligned(limits.memory_alignment), "the pages fit the limits of the file");

  const auto locked = value_of(buffers.lock(buf::MemoryAccess::kWritable), "lock");
  const auto iovecs = buf::as_iovecs(locked.segments());
  const ssize_t got = ::preadv(file.get(), iovecs.data(), static_cast<int>(iovecs.size()), 0);
  expect(buffers.mark_written(), "mark the dirty log");
  //! [direct read]
  expect(got == static_cast<ssize_t>(buffers.size()), "one call reads the whole request");

  // Pages 7 and 8 are one segment.
  for (const buf::IoBuffer& segment : locked.segments()) {
    fmt::print("{:5} bytes at {}\n", segment.length, fmt::ptr(segment.data));
  }
  expect(locked.segments().size() == 3, "four pages are three segments");

  //! [reader]
  // In request order, independent of page order.
  auto reader = buffers.reader();
  std::vector<std::byte> seen(buffers.size());
  expect(reader.read(seen), "read it back");
  expect(reader.remaining() == 0, "no bytes remain");
  //! [reader]
  expect(example::is_from_file(seen, 0), "the guest sees the content of the file");

  // Other guest memory is unchanged: page 4 lies between two written pages.
  std::array<std::byte, kPageSize> other{};
  const std::array<std::byte, kPageSize> zeros{};
  expect(memory.read(Gpa(4 * kPageSize), other), "read page 4");
  expect(other == zeros, "page 4 is unchanged");
  fmt::print("read {} bytes directly\n", got);
}
