// SPDX-License-Identifier: MIT
// The long loops on x86-64: vectors with an aligned destination, as fast as the C library's copy at
// any alignment. Not the string instruction: on many processors it is many times slower if source
// and destination are not a multiple of 16 apart.
#if defined(__x86_64__)

#include <cstdint>

#include "guestio/mem/recover.h"

namespace guestio::mem::internal {

namespace {

const bool has_avx = [] {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx") != 0;
}();

/// Bytes from `address` up to the next multiple of 32, at least 1.
std::size_t bytes_to_alignment(const std::byte* address) noexcept {
  return 32 - (reinterpret_cast<std::uintptr_t>(address) & 31);
}

// In all loops below a fault jumps to label 9, with the remaining bytes in the counter.

/// Lengths above 128 and up to 256: all loads, then all stores.
std::size_t copy_middle_avx(std::byte* destination, const std::byte* source,
                            std::size_t length) noexcept {
  std::size_t left = length;
  asm volatile(
      GUESTIO_RECOVERABLE("vmovdqu (%[from]), %%ymm0", "9f")
      GUESTIO_RECOVERABLE("vmovdqu 32(%[from]), %%ymm1", "9f")
      GUESTIO_RECOVERABLE("vmovdqu 64(%[from]), %%ymm2", "9f")
      GUESTIO_RECOVERABLE("vmovdqu 96(%[from]), %%ymm3", "9f")
      GUESTIO_RECOVERABLE("vmovdqu -128(%[from], %[left]), %%ymm4", "9f")
      GUESTIO_RECOVERABLE("vmovdqu -96(%[from], %[left]), %%ymm5", "9f")
      GUESTIO_RECOVERABLE("vmovdqu -64(%[from], %[left]), %%ymm6", "9f")
      GUESTIO_RECOVERABLE("vmovdqu -32(%[from], %[left]), %%ymm7", "9f")
      GUESTIO_RECOVERABLE("vmovdqu %%ymm0, (%[to])", "9f")
      GUESTIO_RECOVERABLE("vmovdqu %%ymm1, 32(%[to])", "9f")
      GUESTIO_RECOVERABLE("vmovdqu %%ymm2, 64(%[to])", "9f")
      GUESTIO_RECOVERABLE("vmovdqu %%ymm3, 96(%[to])", "9f")
      GUESTIO_RECOVERABLE("vmovdqu %%ymm4, -128(%[to], %[left])", "9f")
      GUESTIO_RECOVERABLE("vmovdqu %%ymm5, -96(%[to], %[left])", "9f")
      GUESTIO_RECOVERABLE("vmovdqu %%ymm6, -64(%[to], %[left])", "9f")
      GUESTIO_RECOVERABLE("vmovdqu %%ymm7, -32(%[to], %[left])", "9f")
      "xor %k[left], %k[left]\n"
      "9:\n"
      "vzeroupper\n"
      : [left] "+r"(left)
      : [to] "r"(destination), [from] "r"(source)
      : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7");
  return length - left;
}

/// Lengths above 256.
std::size_t copy_long_avx(std::byte* destination, const std::byte* source,
                          std::size_t length) noexcept {
  std::size_t left = length;
  const std::size_t head = bytes_to_alignment(destination);
  asm volatile(
      GUESTIO_RECOVERABLE("vmovdqu (%[from]), %%ymm0", "9f")
      GUESTIO_RECOVERABLE("vmovdqu %%ymm0, (%[to])", "9f")
      "add %[head], %[from]\n"
      "add %[head], %[to]\n"
      "sub %[head], %[left]\n"
      ".balign 32\n"
      "3:\n"
      GUESTIO_RECOVERABLE("vmovdqu (%[from]), %%ymm0", "9f")
      GUESTIO_RECOVERABLE("vmovdqu 32(%[from]), %%ymm1", "9f")
      GUESTIO_RECOVERABLE("vmovdqu 64(%[from]), %%ymm2", "9f")
      GUESTIO_RECOVERABLE("vmovdqu 96(%[from]), %%ymm3", "9f")
      GUESTIO_RECOVERABLE("vmovdqa %%ymm0, (%[to])", "9f")
      GUESTIO_RECOVERABLE("vmovdqa %%ymm1, 32(%[to])", "9f")
      GUESTIO_RECOVERABLE("vmovdqa %%ymm2, 64(%[to])", "9f")
      GUESTIO_RECOVERABLE("vmovdqa %%ymm3, 96(%[to])", "9f")
      "add $128, %[from]\n"
      "add $128, %[to]\n"
      "sub $128, %[left]\n"
      "cmp $128, %[left]\n"
      "ja 3b\n"
      // The last 128 bytes, overlapping copied ones.
      GUESTIO_RECOVERABLE("vmovdqu -128(%[from], %[left]), %%ymm0", "9f")
      GUESTIO_RECOVERABLE("vmovdqu -96(%[from], %[left]), %%ymm1", "9f")
      GUESTIO_RECOVERABLE("vmovdqu -64(%[from], %[left]), %%ymm2", "9f")
      GUESTIO_RECOVERABLE("vmovdqu -32(%[from], %[left]), %%ymm3", "9f")
      GUESTIO_RECOVERABLE("vmovdqu %%ymm0, -128(%[to], %[left])", "9f")
      GUESTIO_RECOVERABLE("vmovdqu %%ymm1, -96(%[to], %[left])", "9f")
      GUESTIO_RECOVERABLE("vmovdqu %%ymm2, -64(%[to], %[left])", "9f")
      GUESTIO_RECOVERABLE("vmovdqu %%ymm3, -32(%[to], %[left])", "9f")
      "xor %k[left], %k[left]\n"
      "9:\n"
      "vzeroupper\n"
      : [to] "+r"(destination), [from] "+r"(source), [left] "+r"(left)
      : [head] "r"(head)
      : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3");
  return length - left;
}

std::size_t fill_long_avx(std::byte* destination, std::byte value, std::size_t length) noexcept {
  std::size_t left = length;
  const std::size_t head = bytes_to_alignment(destination);
  const Vector pattern = broadcast(static_cast<std::uint8_t>(value));
  asm volatile(
      "vinsertf128 $1, %[pattern], %t[pattern], %%ymm0\n"
      GUESTIO_RECOVERABLE("vmovdqu %%ymm0, (%[to])", "9f")
      "add %[head], %[to]\n"
      "sub %[head], %[left]\n"
      "cmp $128, %[left]\n"
      "jbe 4f\n"
      ".balign 32\n"
      "3:\n"
      GUESTIO_RECOVERABLE("vmovdqa %%ymm0, (%[to])", "9f")
      GUESTIO_RECOVERABLE("vmovdqa %%ymm0, 32(%[to])", "9f")
      GUESTIO_RECOVERABLE("vmovdqa %%ymm0, 64(%[to])", "9f")
      GUESTIO_RECOVERABLE("vmovdqa %%ymm0, 96(%[to])", "9f")
      "add $128, %[to]\n"
      "sub $128, %[left]\n"
      "cmp $128, %[left]\n"
      "ja 3b\n"
      "4:\n"
      GUESTIO_RECOVERABLE("vmovdqu %%ymm0, -128(%[to], %[left])", "9f")
      GUESTIO_RECOVERABLE("vmovdqu %%ymm0, -96(%[to], %[left])", "9f")
      GUESTIO_RECOVERABLE("vmovdqu %%ymm0, -64(%[to], %[left])", "9f")
      GUESTIO_RECOVERABLE("vmovdqu %%ymm0, -32(%[to], %[left])", "9f")
      "xor %k[left], %k[left]\n"
      "9:\n"
      "vzeroupper\n"
      : [to] "+r"(destination), [left] "+r"(left)
      : [head] "r"(head), [pattern] "x"(pattern)
      : "memory", "cc", "xmm0");
  return length - left;
}

[[gnu::always_inline]] inline bool copy_four(std::byte* to, const std::byte* from) noexcept {
  Vector a;
  Vector b;
  Vector c;
  Vector d;
  return load_vector(from, a) && load_vector(from + 16, b) && load_vector(from + 32, c) &&
         load_vector(from + 48, d) && store_vector(to, a) && store_vector(to + 16, b) &&
         store_vector(to + 32, c) && store_vector(to + 48, d);
}

}  // namespace

std::size_t copy_long_sse2(std::byte* destination, const std::byte* source,
                           std::size_t length) noexcept {
  Vector head;
  if (!load_vector(source, head) || !store_vector(destination, head)) return 0;
  std::size_t done = 16 - (reinterpret_cast<std::uintptr_t>(destination) & 15);
  for (; length - done > 64; done += 64) {
    if (!copy_four(destination + done, source + done)) return done;
  }
  // The last 64 bytes, overlapping copied ones.
  return copy_four(destination + length - 64, source + length - 64) ? length : done;
}

std::size_t copy_long(std::byte* destination, const std::byte* source,
                      std::size_t length) noexcept {
  if (has_avx) [[likely]] {
    return length <= 256 ? copy_middle_avx(destination, source, length)
                         : copy_long_avx(destination, source, length);
  }
  return copy_long_sse2(destination, source, length);
}

std::size_t fill_long(std::byte* destination, std::byte value, std::size_t length) noexcept {
  if (has_avx) [[likely]]
    return fill_long_avx(destination, value, length);
  std::size_t left = length;
  asm volatile(GUESTIO_RECOVERABLE("rep stosb", "9f") "9:\n"
               : "+D"(destination), "+c"(left)
               : "a"(value)
               : "memory");
  return length - left;
}

}  // namespace guestio::mem::internal

#endif
