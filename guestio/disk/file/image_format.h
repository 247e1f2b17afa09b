// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>

#include "guestio/base/error.h"
#include "guestio/base/units.h"

/// Image formats that must not be served as raw: the guest would read the container's own bytes,
/// and its first write would destroy it.
///
/// A signature is only ever a reason to refuse. A guest can write any of them into its own raw disk
/// (encryption of the whole disk does), so none is a reason to open the image in another way.
namespace guestio::disk {

/// The name of the format whose signature an image begins or ends with, a string literal; nullptr
/// when there is none. `head`: its first bytes, `tail`: its last ones, at least 512 each or all
/// there are; they may overlap.
[[nodiscard]] const char* find_signature(std::span<const std::byte> head,
                                         std::span<const std::byte> tail) noexcept;

/// Reads both ends of an open image of `size` bytes, opened with or without O_DIRECT.
/// Errors: foreign format; host and short transfer, when they cannot be read.
Result<> check_raw_format(int fd, ByteCount size);

}  // namespace guestio::disk
