// SPDX-License-Identifier: MIT
// Rows rb: make a request of a page list, and read or write its bytes with one call.
#include <fmt/core.h>

#include "fixture.h"
#include "guestio/buf/request_buffers.h"
#include "row.h"

namespace guestio::bench {

namespace {

using buf::MemoryAccess;
using buf::RequestBuffers;

constexpr std::size_t kLarge = 131072;

RequestBuffers make_request(std::span<const Gpn> gpns, std::uint64_t offset, std::uint64_t size,
                            MemoryAccess access) {
  const std::span list(hidden(gpns.data()), gpns.size());
  const auto range = mem::PagedRange::from_pages(hidden(offset), size, list);
  require(range);
  return {memory(), *range, access};
}

void add_read(Rows& rows, const std::string& name, std::span<const Gpn> gpns, std::uint64_t offset,
              std::size_t size) {
  rows.add(name, size, [gpns, offset, size, to = local()] {
    const auto request = make_request(gpns, offset, size, MemoryAccess::kReadOnly);
    require(request.reader().read({hidden(to), size}));
  });
}

void add_write(Rows& rows, const std::string& name, std::span<const Gpn> gpns, std::size_t size) {
  rows.add(name, size, [gpns, size, from = local()] {
    const auto request = make_request(gpns, 0, size, MemoryAccess::kWritable);
    require(request.writer().write({hidden(from), size}));
  });
}

}  // namespace

void add_request_rows(Rows& rows) {
  for (const Layout layout : kLayouts) {
    for (const std::uint64_t offset : {0u, 512u}) {
      add_read(rows, fmt::format("rb/read/4096/{}/off{}", to_text(layout), offset),
               pages(layout, 2), offset, kPageSize);
    }
  }
  for (const Layout layout : kLayouts) {
    const auto gpns = pages(layout, kLarge / kPageSize);
    add_read(rows, fmt::format("rb/read/{}/{}", kLarge, to_text(layout)), gpns, 0, kLarge);
    add_write(rows, fmt::format("rb/write/{}/{}", kLarge, to_text(layout)), gpns, kLarge);
  }
}

}  // namespace guestio::bench
