// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>

namespace guestio::disk {

/// Where bytes of a file have been written: what is tried there reaches the storage below, which a
/// read of a hole does not. Nothing when all of it is a hole; 0 where nobody knows of holes (block
/// devices). The descriptor's position changes.
[[nodiscard]] std::optional<std::uint64_t> find_data_offset(int fd) noexcept;

}  // namespace guestio::disk
