// SPDX-License-Identifier: MIT
// Rows lock: lock a request, count its segments, release the lock.
#include <fmt/core.h>

#include "fixture.h"
#include "guestio/buf/request_buffers.h"
#include "row.h"

namespace guestio::bench {

namespace {

using buf::MemoryAccess;

void add_lock(Rows& rows, MemoryAccess purpose, Layout layout, std::size_t count) {
  const auto name =
      fmt::format("lock/heap/{}/{}/{}", purpose == MemoryAccess::kWritable ? "write" : "read",
                  to_text(layout), count);
  const auto range = mem::PagedRange::from_whole_pages(pages(layout, count));
  const buf::RequestBuffers request(memory(), range, MemoryAccess::kWritable);
  rows.add(name, count * kPageSize, [request, purpose] {
    const auto locked = hidden(&request)->lock(purpose);
    require(locked);
    benchmark::DoNotOptimize(locked->segments().size());
  });
}

}  // namespace

void add_lock_rows(Rows& rows) {
  for (const MemoryAccess purpose : {MemoryAccess::kReadOnly, MemoryAccess::kWritable}) {
    for (const Layout layout : kLayouts) {
      for (const std::size_t count : {1u, 16u, 32u, 256u}) add_lock(rows, purpose, layout, count);
    }
  }
}

}  // namespace guestio::bench
