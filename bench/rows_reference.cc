// SPDX-License-Identifier: MIT
// Rows memcpy and memset: the C library on the same bytes, as a reference across machines.
#include <fmt/core.h>

#include <array>
#include <cstring>

#include "fixture.h"
#include "row.h"

namespace guestio::bench {

namespace {

/// A copy from guest memory, with the page offsets of both sides.
void add_copy(Rows& rows, std::size_t size, std::size_t guest, std::size_t own,
              const std::string& shift) {
  rows.add(fmt::format("memcpy/read/{}{}", size, shift), size,
           [size, from = host_memory() + guest, to = local() + own] {
             std::memcpy(hidden(to), hidden(from), hidden(size));
           });
  rows.add(fmt::format("memcpy/write/{}{}", size, shift), size,
           [size, to = host_memory() + guest, from = local() + own] {
             std::memcpy(hidden(to), hidden(from), hidden(size));
           });
}

/// One call per page, or one for a contiguous list.
void add_pages(Rows& rows, Layout layout) {
  constexpr std::size_t kSize = 131072;
  const std::size_t run = layout == Layout::kContiguous ? kSize : kPageSize;
  rows.add(fmt::format("memcpy/read/{}/{}", kSize, to_text(layout)), kSize,
           [run, gpns = pages(layout, kSize / kPageSize), guest = host_memory(), to = local()] {
             for (std::size_t at = 0; at < kSize; at += run) {
               const std::size_t from = gpns[at / kPageSize].raw() * kPageSize;
               std::memcpy(hidden(to) + at, guest + from, hidden(run));
             }
           });
  rows.add(fmt::format("memcpy/write/{}/{}", kSize, to_text(layout)), kSize,
           [run, gpns = pages(layout, kSize / kPageSize), guest = host_memory(), from = local()] {
             for (std::size_t at = 0; at < kSize; at += run) {
               const std::size_t to = gpns[at / kPageSize].raw() * kPageSize;
               std::memcpy(guest + to, hidden(from) + at, hidden(run));
             }
           });
}

}  // namespace

void add_reference_rows(Rows& rows) {
  for (const std::size_t size : {1u, 4u, 8u, 32u, 256u, 4096u, 65536u}) {
    add_copy(rows, size, 0, 0, "");
  }
  for (const std::size_t size : {4096u, 65536u}) {
    add_copy(rows, size, 1, 0, "/guest+1");
    add_copy(rows, size, 0, 1, "/local+1");
    add_copy(rows, size, 1, 1, "/both+1");
    add_copy(rows, size, 31, 17, "/guest+31,local+17");
  }
  for (const Layout layout : kLayouts) add_pages(rows, layout);
  for (const std::size_t size : {1u, 32u, 256u, 4096u}) {
    rows.add(fmt::format("memset/{}", size), size,
             [size, to = host_memory()] { std::memset(hidden(to), 0, hidden(size)); });
  }
}

}  // namespace guestio::bench
