// SPDX-License-Identifier: MIT
#pragma once

#include <string_view>

#include "guestio/base/error.h"

namespace guestio::disk {

enum class ImageAccess { kRead, kReadWrite };

/// Claims an open image for as long as `fd` stays open, with the byte locks that QEMU uses
/// (open-file-description locks at byte 100 + what one does, byte 200 + what one does not let
/// others do), so that a second guestio-blk, a QEMU or a qemu-img does not write to it at the same
/// time. Readers share. A process that was killed holds its locks until the last of its requests
/// has left the kernel, so that no write of its own can come later than one of ours: that is waited
/// for, a second at most. Errors: busy. A file system without locks is no error: it is logged.
/// `name` is the subject of that line.
Result<> lock_image(int fd, ImageAccess use, std::string_view name = "disk");

}  // namespace guestio::disk
