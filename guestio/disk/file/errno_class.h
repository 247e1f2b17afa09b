// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

/// What the kernel's refusals say about the storage. The one place where that is decided; `result`
/// is that of an operation or call, 0 or more or -errno.
namespace guestio::disk {

/// The host is short of something (memory, threads for the ring, requests of a device), or somebody
/// holds what is needed at the moment. Says nothing about the storage: worth another attempt
/// (shortage.h). -ECANCELED is what a ring answers whose worker threads the kernel cannot make;
/// nobody here cancels an operation on an image.
[[nodiscard]] bool is_shortage(std::int32_t result) noexcept;

/// The storage says that it cannot discard or zero ranges, now or ever, as devices, drivers and
/// file systems have it: what was asked for has to be done in another way, or need not be done.
[[nodiscard]] bool is_unsupported(std::int32_t result) noexcept;

/// A write through the page cache that flushes as well (RWF_DSYNC) may have been answered with the
/// one report of pages that could not be written. False: it succeeded, or failed before the flush,
/// for it never began or what it was given was refused.
[[nodiscard]] bool may_report_data_loss(std::int32_t result) noexcept;

}  // namespace guestio::disk
