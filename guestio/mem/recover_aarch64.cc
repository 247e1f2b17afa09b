// SPDX-License-Identifier: MIT
// The long loops on aarch64: 64 bytes an iteration in pairs of vector registers.
#if defined(__aarch64__)

#include "guestio/mem/recover.h"

namespace guestio::mem::internal {

// In both loops a fault jumps to label 9, with the remaining bytes in the counter.

std::size_t copy_long(std::byte* destination, const std::byte* source,
                      std::size_t length) noexcept {
  std::size_t left = length;
  const std::byte* from_end = source + length;
  std::byte* to_end = destination + length;
  asm volatile(
      "3:\n"
      GUESTIO_RECOVERABLE("ldp q0, q1, [%[from]]", "9f")
      GUESTIO_RECOVERABLE("ldp q2, q3, [%[from], #32]", "9f")
      GUESTIO_RECOVERABLE("stp q0, q1, [%[to]]", "9f")
      GUESTIO_RECOVERABLE("stp q2, q3, [%[to], #32]", "9f")
      "add %[from], %[from], #64\n"
      "add %[to], %[to], #64\n"
      "sub %[left], %[left], #64\n"
      "cmp %[left], #64\n"
      "b.hi 3b\n"
      // The last 64 bytes, overlapping copied ones: length was above 128.
      GUESTIO_RECOVERABLE("ldp q0, q1, [%[from_end], #-64]", "9f")
      GUESTIO_RECOVERABLE("ldp q2, q3, [%[from_end], #-32]", "9f")
      GUESTIO_RECOVERABLE("stp q0, q1, [%[to_end], #-64]", "9f")
      GUESTIO_RECOVERABLE("stp q2, q3, [%[to_end], #-32]", "9f")
      "mov %[left], #0\n"
      "9:\n"
      : [to] "+r"(destination), [from] "+r"(source), [left] "+r"(left)
      : [from_end] "r"(from_end), [to_end] "r"(to_end)
      : "memory", "cc", "v0", "v1", "v2", "v3");
  return length - left;
}

std::size_t fill_long(std::byte* destination, std::byte value, std::size_t length) noexcept {
  std::size_t left = length;
  std::byte* to_end = destination + length;
  const Vector pattern = broadcast(static_cast<std::uint8_t>(value));
  asm volatile(
      "3:\n"
      GUESTIO_RECOVERABLE("stp %q[pattern], %q[pattern], [%[to]]", "9f")
      GUESTIO_RECOVERABLE("stp %q[pattern], %q[pattern], [%[to], #32]", "9f")
      "add %[to], %[to], #64\n"
      "sub %[left], %[left], #64\n"
      "cmp %[left], #64\n"
      "b.hi 3b\n"
      GUESTIO_RECOVERABLE("stp %q[pattern], %q[pattern], [%[to_end], #-64]", "9f")
      GUESTIO_RECOVERABLE("stp %q[pattern], %q[pattern], [%[to_end], #-32]", "9f")
      "mov %[left], #0\n"
      "9:\n"
      : [to] "+r"(destination), [left] "+r"(left)
      : [to_end] "r"(to_end), [pattern] "w"(pattern)
      : "memory", "cc");
  return length - left;
}

}  // namespace guestio::mem::internal

#endif
