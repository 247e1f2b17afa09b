// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>

#include "guestio/base/error.h"
#include "guestio/base/units.h"

/// Signatures of image formats. An image of another format must not be served as raw: the guest
/// would read the container's own bytes, and its first write would destroy it.
///
/// A signature is a reason to refuse, never to open the image in another way: a guest can write any
/// of them to its own raw disk (full-disk encryption does).
namespace guestio::disk {

/// The name of the format, a string literal, or nullptr for no signature. `head`: the first bytes
/// of the image, `tail`: the last bytes, at least 512 each or the whole image; they may overlap.
[[nodiscard]] const char* find_signature(std::span<const std::byte> head,
                                         std::span<const std::byte> tail) noexcept;

/// Reads both ends of an open image of `size` bytes, with or without O_DIRECT.
/// Errors: foreign format; host and short transfer of the reads.
Result<> check_raw_format(int fd, ByteCount size);

}  // namespace guestio::disk
