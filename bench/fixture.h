// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>

#include "guestio/base/units.h"
#include "guestio/mem/guest_memory.h"

/// What the rows work on.
namespace guestio::bench {

inline constexpr std::size_t kMemoryBytes = std::size_t{16} << 20;

/// 16 MiB of guest memory from address 0, every page touched.
[[nodiscard]] const mem::GuestMemory& memory();
/// Its host address, for the rows that copy without the library.
[[nodiscard]] std::byte* host_memory();
/// 1 MiB of our own, page-aligned and touched.
[[nodiscard]] std::byte* local();

/// Where guest pages lie.
enum class Layout : std::uint8_t {
  kContiguous,  ///< page i of a list is 64 + i
  kScattered,   ///< page i of a list is (1031 i + 17) mod 4096
};
inline constexpr std::array kLayouts{Layout::kContiguous, Layout::kScattered};
/// "contig" or "scatter".
[[nodiscard]] std::string name_of(Layout layout);
/// The first `count` pages of the layout. Requires: at most 256.
[[nodiscard]] std::span<const Gpn> pages(Layout layout, std::size_t count);

}  // namespace guestio::bench
