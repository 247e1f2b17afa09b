// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <string_view>

namespace guestio {

/// Writes `text` to a descriptor, waiting at most `timeout` for a reader: the descriptor may be a
/// pipe without one. The flags of the open file stay unchanged, since other processes may share it.
/// Returns whether all of `text` was written; beyond PIPE_BUF bytes (4096) a part may be.
/// Signal-safe.
///
/// Limitation: on a terminal, and on a pipe before Linux 5.12, a concurrent writer can make it
/// block.
[[nodiscard]] bool write_with_timeout(
    int fd, std::string_view text,
    std::chrono::milliseconds timeout = std::chrono::milliseconds(0)) noexcept;

}  // namespace guestio
