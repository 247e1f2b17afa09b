// SPDX-License-Identifier: MIT
#pragma once

#include <emmintrin.h>

#include <cstddef>
#include <cstdint>

/// The instructions of recover.h on x86-64. Included by recover.h only.

/// A faulting instruction and its table entry: its address and its recovery label, both relative to
/// the entry, without relocations. The section flags: `a` allocated, `R` kept by the linker without
/// a reference, `?` discarded together with a duplicate of an inline function.
#define GUESTIO_RECOVERABLE(instruction, label)         \
  "1: " instruction                                     \
  "\n"                                                  \
  ".pushsection guestio_recovery, \"aR?\", @progbits\n" \
  ".balign 4\n"                                         \
  ".long 1b - .\n"                                      \
  ".long " label                                        \
  " - .\n"                                              \
  ".popsection\n"

namespace guestio::mem::internal {

/// The widest unit of a copy on every machine of this architecture.
using Vector = __m128i;

// The operand of a load, so that the compiler orders earlier stores to it before. It may alias an
// object of any type.
template <std::size_t Size>
struct [[gnu::may_alias]] Block {
  std::byte bytes[Size];
};

/// Prefetches a cache line for writing. A processor without the instruction skips it; the
/// compiler's builtin does not rely on that.
[[gnu::always_inline]] inline void prefetch_for_write(const void* at) noexcept {
  asm volatile("prefetchw %0" : : "m"(*static_cast<const Block<1>*>(at)));
}

template <typename Bits>
[[gnu::always_inline]] inline bool load(const void* from, Bits& to) noexcept {
  const auto* const block = static_cast<const Block<sizeof(Bits)>*>(from);
  Bits value;
  if constexpr (sizeof(Bits) == 1) {
    asm volatile goto(GUESTIO_RECOVERABLE("movzbl %[from], %k[value]", "%l[fault]")
                      : [value] "=r"(value)
                      : [from] "m"(*block)
                      :
                      : fault);
  } else if constexpr (sizeof(Bits) == 2) {
    asm volatile goto(GUESTIO_RECOVERABLE("movzwl %[from], %k[value]", "%l[fault]")
                      : [value] "=r"(value)
                      : [from] "m"(*block)
                      :
                      : fault);
  } else {
    asm volatile goto(GUESTIO_RECOVERABLE("mov %[from], %[value]", "%l[fault]")
                      : [value] "=r"(value)
                      : [from] "m"(*block)
                      :
                      : fault);
  }
  to = value;
  return true;
fault:
  return false;
}

/// The processor never reorders loads with later accesses: only the compiler needs a barrier.
template <typename Bits>
[[gnu::always_inline]] inline bool load_acquire(const void* from, Bits& to) noexcept {
  const bool loaded = load(from, to);
  asm volatile("" : : : "memory");
  return loaded;
}

template <typename Bits>
[[gnu::always_inline]] inline bool store(void* to, Bits value) noexcept {
  asm volatile goto(GUESTIO_RECOVERABLE("mov %[value], (%[to])", "%l[fault]")
                    :
                    : [value] "r"(value), [to] "r"(to)
                    : "memory"
                    : fault);
  return true;
fault:
  return false;
}

/// Stores are never reordered with earlier accesses by the processor.
template <typename Bits>
[[gnu::always_inline]] inline bool store_release(void* to, Bits value) noexcept {
  return store(to, value);
}

/// 0: different, 1: exchanged, 2: faulted.
template <typename Bits>
[[gnu::always_inline]] inline unsigned compare_exchange(void* at, Bits& expected,
                                                        Bits desired) noexcept {
  std::uint8_t state = 2;
  asm volatile(GUESTIO_RECOVERABLE("lock cmpxchg %[desired], (%[at])", "2f")
               "sete %[state]\n"
               "2:\n"
               : "+a"(expected), [state] "+q"(state)
               : [at] "r"(at), [desired] "r"(desired)
               : "memory", "cc");
  return state;
}

[[gnu::always_inline]] inline bool set_bits(void* at, std::uint8_t bits) noexcept {
  asm volatile goto(GUESTIO_RECOVERABLE("lock orb %[bits], (%[at])", "%l[fault]")
                    :
                    : [bits] "q"(bits), [at] "r"(at)
                    : "memory", "cc"
                    : fault);
  return true;
fault:
  return false;
}

[[gnu::always_inline]] inline bool load_vector(const std::byte* from, Vector& to) noexcept {
  const auto* const block = reinterpret_cast<const Block<sizeof(Vector)>*>(from);
  Vector value;
  asm volatile goto(GUESTIO_RECOVERABLE("movdqu %[from], %[value]", "%l[fault]")
                    : [value] "=x"(value)
                    : [from] "m"(*block)
                    :
                    : fault);
  to = value;
  return true;
fault:
  return false;
}

[[gnu::always_inline]] inline bool store_vector(std::byte* to, Vector value) noexcept {
  asm volatile goto(GUESTIO_RECOVERABLE("movdqu %[value], (%[to])", "%l[fault]")
                    :
                    : [value] "x"(value), [to] "r"(to)
                    : "memory"
                    : fault);
  return true;
fault:
  return false;
}

[[gnu::always_inline]] inline Vector broadcast(std::uint8_t value) noexcept {
  return _mm_set1_epi8(static_cast<char>(value));
}

[[gnu::always_inline]] inline bool equal(Vector a, Vector b) noexcept {
  return _mm_movemask_epi8(_mm_cmpeq_epi8(a, b)) == 0xffff;
}

/// The long loops, for `length` above 128. They return a lower bound of the bytes done: `length`
/// or, after a fault, a number before the faulting byte.
std::size_t copy_long(std::byte* destination, const std::byte* source, std::size_t length) noexcept;
std::size_t fill_long(std::byte* destination, std::byte value, std::size_t length) noexcept;
/// copy_long() for processors without AVX.
std::size_t copy_long_sse2(std::byte* destination, const std::byte* source,
                           std::size_t length) noexcept;

}  // namespace guestio::mem::internal
