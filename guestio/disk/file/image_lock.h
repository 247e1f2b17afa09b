// SPDX-License-Identifier: MIT
#pragma once

#include <string_view>

#include "guestio/base/error.h"
#include "guestio/disk/file/file_disk_options.h"

namespace guestio::disk {

/// Locks an open image until `fd` is closed, so that a second guestio-blk, a QEMU or a qemu-img
/// does not write to it at the same time. Readers share.
///
/// The locks are QEMU's byte locks (open-file-description locks): byte 100 + permission for what
/// the owner does, byte 200 + permission for what it denies to others. A killed process holds its
/// locks until its last request has left the kernel, so none of its writes can follow one of ours;
/// this waits for it, at most one second.
///
/// `name` is the subject of the log line about a file system without locks, which is no error.
/// Errors: busy, host.
Result<> lock_image(int fd, ImageAccess access, std::string_view name = "disk");

}  // namespace guestio::disk
