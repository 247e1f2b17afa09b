// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>

namespace guestio::disk {

/// The offset of written data in a file: a trial there reaches the storage below, unlike a read of
/// a hole. Nothing for a file of one hole; 0 for a file without holes (block devices). Moves the
/// descriptor's position.
[[nodiscard]] std::optional<std::uint64_t> find_data_offset(int fd) noexcept;

}  // namespace guestio::disk
