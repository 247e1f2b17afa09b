// SPDX-License-Identifier: MIT
// Rows fault: an access to guest memory with a truncated file, from the access to the error.
#include <fmt/core.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fixture.h"
#include "guestio/base/unique_fd.h"
#include "guestio/mem/mapped_memory.h"
#include "row.h"

namespace guestio::bench {

namespace {

constexpr std::size_t kSize = 1 << 20;

/// Memory of a file truncated to zero.
const mem::GuestMemory& missing_memory() {
  static const mem::GuestMemory the_memory = [] {
    const UniqueFd file(::memfd_create("guestio-bench-micro", MFD_CLOEXEC));
    GUESTIO_CHECK(::ftruncate(file.get(), kSize) == 0, "a memory file");
    const mem::FileRegion region{Gpa(0), ByteCount(kSize), file.get(), FileOffset(0)};
    auto mapped = mem::map_file_regions({&region, 1});
    require(mapped);
    GUESTIO_CHECK(::ftruncate(file.get(), 0) == 0, "a memory file");
    return std::move(*mapped);
  }();
  return the_memory;
}

template <typename T>
void require_fault(const Result<T>& result) {
  GUESTIO_CHECK(!result && result.error().kind == ErrorKind::kMemoryFault, "a fault");
}

}  // namespace

void add_fault_rows(Rows& rows) {
  const mem::GuestMemory& guest = missing_memory();
  rows.add("fault/recovered/load/u64", 8,
           [&guest] { require_fault(guest.load<std::uint64_t>(Gpa(hidden(std::uint64_t{8})))); });
  for (const std::size_t size : {std::size_t{8}, std::size_t{kPageSize}}) {
    rows.add(fmt::format("fault/recovered/read_at/{}", size), size, [&guest, size, to = local()] {
      require_fault(guest.read(Gpa(hidden(std::uint64_t{0})), {to, hidden(size)}));
    });
    rows.add(fmt::format("fault/recovered/write_at/{}", size), size,
             [&guest, size, from = local()] {
               require_fault(guest.write(Gpa(hidden(std::uint64_t{0})), {from, hidden(size)}));
             });
  }
}

}  // namespace guestio::bench
