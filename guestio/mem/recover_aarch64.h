// SPDX-License-Identifier: MIT
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

/// The instructions of recover.h on aarch64. Included by recover.h only.

/// A faulting instruction and its table entry: its address and its recovery label, both relative to
/// the entry, without relocations. The section flags: `a` allocated, `R` kept by the linker without
/// a reference, `?` discarded together with a duplicate of an inline function.
#define GUESTIO_RECOVERABLE(instruction, label)          \
  "1: " instruction                                      \
  "\n"                                                   \
  ".pushsection guestio_recovery, \"aR?\", %%progbits\n" \
  ".balign 4\n"                                          \
  ".long 1b - .\n"                                       \
  ".long " label                                         \
  " - .\n"                                               \
  ".popsection\n"

namespace guestio::mem::internal {

/// The widest unit of a copy on every machine of this architecture.
using Vector = uint8x16_t;

// The operand of a load, so that the compiler orders earlier stores to it before. It may alias an
// object of any type.
template <std::size_t Size>
struct [[gnu::may_alias]] Block {
  std::byte bytes[Size];
};

/// Prefetches a cache line for writing.
[[gnu::always_inline]] inline void prefetch_for_write(const void* at) noexcept {
  __builtin_prefetch(at, 1);
}

// `Q` is memory addressed by one register, as required by all of these instructions.

template <typename Bits>
[[gnu::always_inline]] inline bool load(const void* from, Bits& to) noexcept {
  const auto* const block = static_cast<const Block<sizeof(Bits)>*>(from);
  Bits value;
  if constexpr (sizeof(Bits) == 1) {
    asm volatile goto(GUESTIO_RECOVERABLE("ldrb %w[value], %[from]", "%l[fault]")
                      : [value] "=r"(value)
                      : [from] "Q"(*block)
                      :
                      : fault);
  } else if constexpr (sizeof(Bits) == 2) {
    asm volatile goto(GUESTIO_RECOVERABLE("ldrh %w[value], %[from]", "%l[fault]")
                      : [value] "=r"(value)
                      : [from] "Q"(*block)
                      :
                      : fault);
  } else if constexpr (sizeof(Bits) == 4) {
    asm volatile goto(GUESTIO_RECOVERABLE("ldr %w[value], %[from]", "%l[fault]")
                      : [value] "=r"(value)
                      : [from] "Q"(*block)
                      :
                      : fault);
  } else {
    asm volatile goto(GUESTIO_RECOVERABLE("ldr %x[value], %[from]", "%l[fault]")
                      : [value] "=r"(value)
                      : [from] "Q"(*block)
                      :
                      : fault);
  }
  to = value;
  return true;
fault:
  return false;
}

template <typename Bits>
[[gnu::always_inline]] inline bool load_acquire(const void* from, Bits& to) noexcept {
  Bits value;
  if constexpr (sizeof(Bits) == 1) {
    asm volatile goto(GUESTIO_RECOVERABLE("ldarb %w[value], [%[from]]", "%l[fault]")
                      : [value] "=r"(value)
                      : [from] "r"(from)
                      : "memory"
                      : fault);
  } else if constexpr (sizeof(Bits) == 2) {
    asm volatile goto(GUESTIO_RECOVERABLE("ldarh %w[value], [%[from]]", "%l[fault]")
                      : [value] "=r"(value)
                      : [from] "r"(from)
                      : "memory"
                      : fault);
  } else if constexpr (sizeof(Bits) == 4) {
    asm volatile goto(GUESTIO_RECOVERABLE("ldar %w[value], [%[from]]", "%l[fault]")
                      : [value] "=r"(value)
                      : [from] "r"(from)
                      : "memory"
                      : fault);
  } else {
    asm volatile goto(GUESTIO_RECOVERABLE("ldar %x[value], [%[from]]", "%l[fault]")
                      : [value] "=r"(value)
                      : [from] "r"(from)
                      : "memory"
                      : fault);
  }
  to = value;
  return true;
fault:
  return false;
}

template <typename Bits>
[[gnu::always_inline]] inline bool store(void* to, Bits value) noexcept {
  if constexpr (sizeof(Bits) == 1) {
    asm volatile goto(GUESTIO_RECOVERABLE("strb %w[value], [%[to]]", "%l[fault]")
                      :
                      : [value] "r"(value), [to] "r"(to)
                      : "memory"
                      : fault);
  } else if constexpr (sizeof(Bits) == 2) {
    asm volatile goto(GUESTIO_RECOVERABLE("strh %w[value], [%[to]]", "%l[fault]")
                      :
                      : [value] "r"(value), [to] "r"(to)
                      : "memory"
                      : fault);
  } else if constexpr (sizeof(Bits) == 4) {
    asm volatile goto(GUESTIO_RECOVERABLE("str %w[value], [%[to]]", "%l[fault]")
                      :
                      : [value] "r"(value), [to] "r"(to)
                      : "memory"
                      : fault);
  } else {
    asm volatile goto(GUESTIO_RECOVERABLE("str %x[value], [%[to]]", "%l[fault]")
                      :
                      : [value] "r"(value), [to] "r"(to)
                      : "memory"
                      : fault);
  }
  return true;
fault:
  return false;
}

template <typename Bits>
[[gnu::always_inline]] inline bool store_release(void* to, Bits value) noexcept {
  if constexpr (sizeof(Bits) == 1) {
    asm volatile goto(GUESTIO_RECOVERABLE("stlrb %w[value], [%[to]]", "%l[fault]")
                      :
                      : [value] "r"(value), [to] "r"(to)
                      : "memory"
                      : fault);
  } else if constexpr (sizeof(Bits) == 2) {
    asm volatile goto(GUESTIO_RECOVERABLE("stlrh %w[value], [%[to]]", "%l[fault]")
                      :
                      : [value] "r"(value), [to] "r"(to)
                      : "memory"
                      : fault);
  } else if constexpr (sizeof(Bits) == 4) {
    asm volatile goto(GUESTIO_RECOVERABLE("stlr %w[value], [%[to]]", "%l[fault]")
                      :
                      : [value] "r"(value), [to] "r"(to)
                      : "memory"
                      : fault);
  } else {
    asm volatile goto(GUESTIO_RECOVERABLE("stlr %x[value], [%[to]]", "%l[fault]")
                      :
                      : [value] "r"(value), [to] "r"(to)
                      : "memory"
                      : fault);
  }
  return true;
fault:
  return false;
}

enum class Attempt : unsigned { kDifferent = 0, kDone = 1, kFaulted = 2, kDisturbed = 3 };

/// A concurrently writing guest can disturb an exclusive pair indefinitely. After this many
/// attempts the memory counts as faulted.
inline constexpr unsigned kMaxAttempts = 1u << 20;

/// One attempt of a compare-exchange. If the values differ, the found value is stored back, so that
/// read-only memory faults in either case. One block of assembly, because no access may come
/// between the two of an exclusive pair.
template <typename Bits>
[[gnu::always_inline]] inline Attempt attempt_exchange(void* at, Bits& found, Bits expected,
                                                       Bits desired) noexcept {
  const std::uint64_t want = expected;
  const std::uint64_t value = desired;
  std::uint64_t seen;
  std::uint64_t stored;
  std::uint64_t equal;
  std::uint32_t state;
#define GUESTIO_ATTEMPT(load, store) \
  asm volatile(GUESTIO_RECOVERABLE(load ", [%[at]]", "8f")                        \
               "cmp %x[seen], %x[want]\n"                                         \
               "csel %x[stored], %x[value], %x[seen], eq\n"                       \
               "cset %x[equal], eq\n"                                             \
               GUESTIO_RECOVERABLE(store ", [%[at]]", "8f")                       \
               "cmp %w[state], #0\n"                                              \
               "mov %w[state], #3\n"                                              \
               "csel %w[state], %w[equal], %w[state], eq\n"                       \
               "b 9f\n"                                                           \
               "8: mov %w[state], #2\n"                                           \
               "9:\n"                                                             \
               : [seen] "=&r"(seen), [stored] "=&r"(stored), [state] "=&r"(state), \
                 [equal] "=&r"(equal)                                             \
               : [at] "r"(at), [want] "r"(want), [value] "r"(value)               \
               : "memory", "cc")
  if constexpr (sizeof(Bits) == 1) {
    GUESTIO_ATTEMPT("ldaxrb %w[seen]", "stlxrb %w[state], %w[stored]");
  } else if constexpr (sizeof(Bits) == 2) {
    GUESTIO_ATTEMPT("ldaxrh %w[seen]", "stlxrh %w[state], %w[stored]");
  } else if constexpr (sizeof(Bits) == 4) {
    GUESTIO_ATTEMPT("ldaxr %w[seen]", "stlxr %w[state], %w[stored]");
  } else {
    GUESTIO_ATTEMPT("ldaxr %x[seen]", "stlxr %w[state], %x[stored]");
  }
#undef GUESTIO_ATTEMPT
  found = static_cast<Bits>(seen);
  return static_cast<Attempt>(state);
}

/// 0: different, 1: exchanged, 2: faulted.
template <typename Bits>
[[gnu::always_inline]] inline unsigned compare_exchange(void* at, Bits& expected,
                                                        Bits desired) noexcept {
  for (unsigned i = 0; i < kMaxAttempts; ++i) {
    Bits found;
    const Attempt attempt = attempt_exchange(at, found, expected, desired);
    if (attempt == Attempt::kDisturbed) continue;
    if (attempt == Attempt::kDifferent) expected = found;
    return static_cast<unsigned>(attempt);
  }
  return static_cast<unsigned>(Attempt::kFaulted);
}

[[gnu::always_inline]] inline bool set_bits(void* at, std::uint8_t bits) noexcept {
  std::uint32_t value;
  std::uint32_t state = 1;
  for (unsigned i = 0; i < kMaxAttempts && state != 0; ++i) {
    asm volatile goto(
        GUESTIO_RECOVERABLE(
            "ldaxrb %w[value], [%[at]]",
            "%l[fault]") "orr %w[value], %w[value], %w[bits]\n" GUESTIO_RECOVERABLE("stlxrb "
                                                                                    "%w[state], "
                                                                                    "%w[value], "
                                                                                    "[%[at]]",
                                                                                    "%l[fault]")
        : [value] "=&r"(value), [state] "=&r"(state)
        : [bits] "r"(bits), [at] "r"(at)
        : "memory"
        : fault);
  }
  return state == 0;
fault:
  return false;
}

[[gnu::always_inline]] inline bool load_vector(const std::byte* from, Vector& to) noexcept {
  const auto* const block = reinterpret_cast<const Block<sizeof(Vector)>*>(from);
  Vector value;
  asm volatile goto(GUESTIO_RECOVERABLE("ldr %q[value], %[from]", "%l[fault]")
                    : [value] "=w"(value)
                    : [from] "Q"(*block)
                    :
                    : fault);
  to = value;
  return true;
fault:
  return false;
}

[[gnu::always_inline]] inline bool store_vector(std::byte* to, Vector value) noexcept {
  asm volatile goto(GUESTIO_RECOVERABLE("str %q[value], [%[to]]", "%l[fault]")
                    :
                    : [value] "w"(value), [to] "r"(to)
                    : "memory"
                    : fault);
  return true;
fault:
  return false;
}

[[gnu::always_inline]] inline Vector broadcast(std::uint8_t value) noexcept {
  return vdupq_n_u8(value);
}

[[gnu::always_inline]] inline bool equal(Vector a, Vector b) noexcept {
  return vminvq_u8(vceqq_u8(a, b)) == 0xff;
}

/// The long loops, for `length` above 128. They return a lower bound of the bytes done: `length`
/// or, after a fault, a number before the faulting byte.
std::size_t copy_long(std::byte* destination, const std::byte* source, std::size_t length) noexcept;
std::size_t fill_long(std::byte* destination, std::byte value, std::size_t length) noexcept;

}  // namespace guestio::mem::internal
