// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "guestio/base/error.h"

namespace guestio::uring {

/// What an operator can do when io_uring cannot be set up: names what this host says about it
/// (kernel.io_uring_disabled, seccomp profiles, the memory-lock limit). Empty when `error` has
/// another cause than those.
std::string setup_failure_hint(const Error& error);

/// The same when the kernel registers no memory: "RLIMIT_MEMLOCK is 8 MiB: ...".
std::string memlock_limit_hint();

}  // namespace guestio::uring
