// SPDX-License-Identifier: MIT
#pragma once

namespace guestio {

/// The version of the library and its programs. A check in CMakeLists.txt compares it with the
/// project's version.
inline constexpr const char* kVersion = "0.1.0";

}  // namespace guestio
