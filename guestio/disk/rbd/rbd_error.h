// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "guestio/disk/registry.h"

/// Error numbers of librados and librbd.
namespace guestio::disk {

/// The text of an error number, with its number: "Connection timed out (110)".
[[nodiscard]] std::string describe_rbd_errno(int error);

/// `what` is a literal: the operation.
[[nodiscard]] std::unexpected<OpenFailure> rbd_failure(int error, const char* what,
                                                       std::string detail);

/// The cluster refuses this client (it is on the blocklist, EBLOCKLISTED of Ceph).
[[nodiscard]] bool is_fenced_errno(int error) noexcept;

}  // namespace guestio::disk
