// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>

#include "guestio/base/error.h"
#include "guestio/uring/registered_buffers.h"

namespace guestio::registered {

/// Whether `memory` fits into what `owner` has left of its share of a ring's table. Disks on one
/// thread share its table; many small regions of one front-end leave the others their part.
/// Errors: too large (slots needed, slots left). Threads: the ring's.
[[nodiscard]] Result<> check_table_share(const uring::RegisteredBuffers& table,
                                         std::span<const std::byte> memory, const void* owner);

}  // namespace guestio::registered
