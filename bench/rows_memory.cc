// SPDX-License-Identifier: MIT
// Rows gm/heap: typed accesses, copies, fills, and a failing access.
#include <fmt/core.h>

#include "fixture.h"
#include "row.h"

namespace guestio::bench {

namespace {

/// Page offsets of both sides of a copy.
struct Shift {
  std::size_t guest = 0;
  std::size_t local = 0;
  std::string name = {};
};

Gpa hidden_gpa(std::uint64_t address) { return Gpa(hidden(address)); }

void add_words(Rows& rows) {
  rows.add("gm/heap/read_plain/u64", 8, [&guest = memory()] {
    const auto value = guest.load<std::uint64_t>(hidden_gpa(0));
    require(value);
    benchmark::DoNotOptimize(*value);
  });
  rows.add("gm/heap/write_plain/u64", 8, [&guest = memory()] {
    require(guest.store<std::uint64_t>(hidden_gpa(0), hidden(std::uint64_t{7})));
  });
}

template <std::size_t N>
void add_read(Rows& rows, const Shift& shift = {}) {
  const auto name = fmt::format("gm/heap/read_at/{}{}", N, shift.name);
  rows.add(name, N, [&guest = memory(), at = shift.guest, to = local() + shift.local] {
    require(guest.read(hidden_gpa(at), std::span<std::byte>(hidden(to), N)));
  });
}

template <std::size_t N>
void add_write(Rows& rows, const Shift& shift = {}) {
  const auto name = fmt::format("gm/heap/write_at/{}{}", N, shift.name);
  rows.add(name, N, [&guest = memory(), at = shift.guest, from = local() + shift.local] {
    require(guest.write(hidden_gpa(at), std::span<const std::byte>(hidden(from), N)));
  });
}

template <std::size_t N>
void add_fill(Rows& rows) {
  rows.add(fmt::format("gm/heap/fill_at/{}", N), N,
           [&guest = memory()] { require(guest.fill(hidden_gpa(0), std::byte{0}, N)); });
}

/// With lengths known at run time only.
void add_dynamic(Rows& rows, std::size_t size) {
  rows.add(fmt::format("gm/heap/read_at_dyn/{}", size), size,
           [&guest = memory(), to = local(), size] {
             require(guest.read(hidden_gpa(0), std::span(hidden(to), hidden(size))));
           });
  rows.add(fmt::format("gm/heap/write_at_dyn/{}", size), size,
           [&guest = memory(), from = local(), size] {
             const std::span<const std::byte> bytes(hidden(from), hidden(size));
             require(guest.write(hidden_gpa(0), bytes));
           });
}

template <std::size_t... N>
void add_sizes(Rows& rows) {
  (add_read<N>(rows), ...);
  (add_write<N>(rows), ...);
}

template <std::size_t... N>
void add_shifted(Rows& rows) {
  for (const Shift& shift : {Shift{1, 0, "/guest+1"}, Shift{0, 1, "/local+1"},
                             Shift{1, 1, "/both+1"}, Shift{31, 17, "/guest+31,local+17"}}) {
    (add_read<N>(rows, shift), ...);
    (add_write<N>(rows, shift), ...);
  }
}

}  // namespace

void add_memory_rows(Rows& rows) {
  add_words(rows);
  add_sizes<1, 4, 8, 32, 256, 4096, 65536>(rows);
  for (const std::size_t size : {1u, 4u, 8u, 32u, 256u, 4096u, 65536u}) add_dynamic(rows, size);
  add_shifted<4096, 65536>(rows);
  add_fill<1>(rows);
  add_fill<32>(rows);
  add_fill<256>(rows);
  add_fill<4096>(rows);
  rows.add("gm/heap/read_at_out_of_range_err/8", 8, [&guest = memory(), to = local()] {
    auto read = guest.read(hidden_gpa(kMemoryBytes), std::span<std::byte>(hidden(to), 8));
    benchmark::DoNotOptimize(read);
  });
}

}  // namespace guestio::bench
