// SPDX-License-Identifier: MIT
#pragma once

namespace guestio {

/// The version of the library and its programs; the test of CMakeLists.txt keeps it equal to the
/// project's.
inline constexpr const char* kVersion = "0.1.0";

}  // namespace guestio
