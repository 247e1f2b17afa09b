// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>

#include "guestio/base/units.h"
#include "guestio/mem/guest_memory.h"

/// The memory of the rows.
namespace guestio::bench {

inline constexpr std::size_t kMemoryBytes = std::size_t{16} << 20;

/// 16 MiB of guest memory from address 0, all pages resident.
[[nodiscard]] const mem::GuestMemory& memory();
/// Its host address, for rows without the library.
[[nodiscard]] std::byte* host_memory();
/// 1 MiB of private memory, page-aligned and resident.
[[nodiscard]] std::byte* local();

/// The placement of guest pages.
enum class Layout : std::uint8_t {
  kContiguous,  ///< page i of a list is 64 + i
  kScattered,   ///< page i of a list is (1031 i + 17) mod 4096
};
inline constexpr std::array kLayouts{Layout::kContiguous, Layout::kScattered};
/// "contig" or "scatter".
[[nodiscard]] std::string to_text(Layout layout);
/// The first `count` pages of the layout. Requires: at most 256.
[[nodiscard]] std::span<const Gpn> pages(Layout layout, std::size_t count);

}  // namespace guestio::bench
