// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>

#include <cstdio>
#include <string>

#include "apps/guestio-load/arguments.h"
#include "guestio/base/error.h"

/// Error reports: one line on standard error.
namespace guestio::load {

/// Returns `status`.
inline int complain(int status, const std::string& text) {
  fmt::print(stderr, "guestio-load: {}\n", text);
  return status;
}

inline int complain(const Error& error) { return complain(kExitFailed, error.to_string()); }

}  // namespace guestio::load
