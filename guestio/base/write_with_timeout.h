// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <string_view>

namespace guestio {

/// Writes `text` to a descriptor that may be a pipe which nobody reads: without waiting for a
/// reader longer than `limit`. The descriptor's flags stay as they are, since the open file may be
/// shared with other processes. Returns whether all of it was written; of a text of more than
/// PIPE_BUF bytes (4096) a part may be. Signal-safe.
///
/// Limits: on a terminal, and on a pipe before Linux 5.12, another writer that fills the room in
/// between makes it wait.
[[nodiscard]] bool write_with_timeout(
    int fd, std::string_view text,
    std::chrono::milliseconds limit = std::chrono::milliseconds(0)) noexcept;

}  // namespace guestio
