// SPDX-License-Identifier: MIT
#pragma once

/// How much a test does in a build for looking at threads, which takes many times as long. Not in
/// the namespace guestio::testing: where that is known, gtest's is `::testing`.
namespace guestio {

#if defined(__has_feature)
inline constexpr bool kIsThreadSanitized = __has_feature(thread_sanitizer);
#elif defined(__SANITIZE_THREAD__)
inline constexpr bool kIsThreadSanitized = true;
#else
inline constexpr bool kIsThreadSanitized = false;
#endif

/// Rounds of a test with one thread only: what the sanitizer finds in it, it finds in the first of
/// them. The other builds make them all.
constexpr int rounds_on_one_thread(int all) { return kIsThreadSanitized ? all / 10 : all; }

}  // namespace guestio
