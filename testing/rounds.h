// SPDX-License-Identifier: MIT
#pragma once

/// How much a test does in builds that take many times as long for it: those for looking at memory
/// and threads, and the one that an emulator runs. Not in the namespace guestio::testing: where
/// that is known, gtest's is `::testing`.
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

/// Rounds of a test with one thread only: what a sanitizer finds in it, it finds in the first of
/// them, and they are the same everywhere. The preset dev makes them all.
constexpr int single_threaded_rounds(int all) {
  if (kIsThreadSanitized || kIsEmulated) return all / 10;
  return kIsAddressSanitized ? all / 4 : all;
}

}  // namespace guestio
