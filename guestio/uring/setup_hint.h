// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "guestio/base/error.h"

namespace guestio::uring {

/// What the operator can do after a failed io_uring set-up, with the state of this host
/// (kernel.io_uring_disabled, seccomp profiles, the memory-lock limit). Empty for other errors.
std::string setup_failure_hint(const Error& error);

/// What the operator can do about a failed buffer registration: "RLIMIT_MEMLOCK is 8 MiB: ...".
std::string memlock_limit_hint();

}  // namespace guestio::uring
