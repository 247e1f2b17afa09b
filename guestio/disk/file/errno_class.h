// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

/// Classes of the kernel's error numbers, for all operations on an image. `result` is that of an
/// operation or call: 0 or more, or -errno.
namespace guestio::disk {

/// A resource shortage of the host (memory, worker threads of the ring, requests of a device), or a
/// resource in use for the moment. Says nothing about the storage, so a retry is worthwhile
/// (shortage.h). -ECANCELED is the result of a ring without worker threads; nothing cancels an
/// operation on an image.
[[nodiscard]] bool is_shortage(std::int32_t result) noexcept;

/// The storage cannot discard or zero ranges, now or ever. Devices, drivers and file systems have
/// different error numbers for it. The caller has another way, or may leave the request undone.
[[nodiscard]] bool is_unsupported(std::int32_t result) noexcept;

/// A stable write through the page cache (RWF_DSYNC) may have consumed the one report of lost
/// pages. False: it succeeded, or failed before its flush, because it never began or its arguments
/// were refused.
[[nodiscard]] bool may_report_data_loss(std::int32_t result) noexcept;

}  // namespace guestio::disk
