// SPDX-License-Identifier: MIT
#pragma once

/// Scales tests down in slow builds: with sanitizers, and under an emulator. Not in namespace
/// guestio::testing, whose users must spell gtest's as `::testing`.
namespace guestio {

#if defined(__has_feature)
inline constexpr bool kIsThreadSanitized = __has_feature(thread_sanitizer);
inline constexpr bool kIsAddressSanitized = __has_feature(address_sanitizer);
#elif defined(__SANITIZE_THREAD__)
inline constexpr bool kIsThreadSanitized = true;
inline constexpr bool kIsAddressSanitized = false;
#else
inline constexpr bool kIsThreadSanitized = false;
inline constexpr bool kIsAddressSanitized = false;
#endif
#if defined(GUESTIO_IS_EMULATED)
inline constexpr bool kIsEmulated = true;
#else
inline constexpr bool kIsEmulated = false;
#endif

/// Rounds of a single-threaded test. Its rounds are deterministic, and a sanitizer finds its errors
/// in the first ones. The preset dev runs all of them.
constexpr int single_threaded_rounds(int all) {
  if (kIsThreadSanitized || kIsEmulated) return all / 10;
  return kIsAddressSanitized ? all / 4 : all;
}

}  // namespace guestio
