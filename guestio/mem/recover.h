// SPDX-License-Identifier: MIT
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "guestio/base/error.h"

#if defined(__x86_64__)
#include "guestio/mem/recover_x86_64.h"
#elif defined(__aarch64__)
#include "guestio/mem/recover_aarch64.h"
#else
#error "guestio recovers from memory faults on x86-64 and aarch64 only"
#endif

/// Access to memory that a hostile peer can take away or change at any moment: it truncates the
/// file behind it, and what is a copy in an ordinary program becomes a SIGBUS. Everything here
/// returns an outcome instead.
///
/// How it works: each instruction that may fault has an entry in a table (section
/// guestio_recovery) that names the place to go on at. The signal handler looks the faulting
/// instruction up and continues there. An access that does not fault costs nothing extra.
///
/// The accesses are inline assembly. So a race with the guest, which is no fault of ours and cannot
/// be prevented, is no undefined behaviour, the compiler can neither repeat nor split them, and the
/// sanitizers do not see them.
///
/// Pointers are host addresses and may point anywhere at all, mapped or not. Source and destination
/// of one operation must not overlap. Any thread; a thread must not block SIGSEGV or SIGBUS.
namespace guestio::mem {

/// What a typed operation can move in one instruction: 1, 2, 4 or 8 bytes without a constructor.
template <typename T>
concept Word = std::is_trivially_copyable_v<T> &&
               (sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8);

namespace internal {

struct RecoveryEntry;

template <Word T>
using Bits = std::conditional_t<
    sizeof(T) == 1, std::uint8_t,
    std::conditional_t<sizeof(T) == 2, std::uint16_t,
                       std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>>>;

// The linker sets these around the table of the binary or shared object that this is compiled into.
extern "C" {
[[gnu::weak, gnu::visibility("hidden")]] extern const RecoveryEntry recovery_table_begin[] asm(
    "__start_guestio_recovery");
[[gnu::weak, gnu::visibility("hidden")]] extern const RecoveryEntry recovery_table_end[] asm(
    "__stop_guestio_recovery");
}

Result<> install_recovery_table(const RecoveryEntry* begin, const RecoveryEntry* end) noexcept;

}  // namespace internal

/// Takes SIGSEGV and SIGBUS for the whole process. Signals that another program or thread sent, and
/// faults of other instructions, go to the handler that was there before, or do what they did by
/// default. May be called any number of times. A shared object that contains a copy of this library
/// calls it for itself. Errors: host.
[[gnu::visibility("hidden")]] inline Result<> install_fault_recovery() noexcept {
  return internal::install_recovery_table(internal::recovery_table_begin,
                                          internal::recovery_table_end);
}

/// The side of a copy whose memory was missing.
enum class FaultSide : std::uint8_t { kNone, kSource, kDestination };

struct CopyOutcome {
  std::size_t done;  ///< bytes copied, exactly: the next one is the one that faulted
  FaultSide fault;
};

/// Copies `length` bytes. With a fault on either side, everything before the faulting byte has been
/// copied and nothing behind it has been written.
[[nodiscard]] CopyOutcome try_copy_outcome(std::byte* destination, const std::byte* source,
                                           std::size_t length) noexcept;

namespace internal {

template <typename Bits>
[[nodiscard]] inline bool copy_word(std::byte* destination, const std::byte* source) noexcept {
  Bits bits;
  return load(source, bits) && store(destination, bits);
}

/// Copies of a length that the compiler knows, in place. False: not done, for whatever reason.
[[nodiscard, gnu::always_inline]] inline bool copy_known(std::byte* destination,
                                                         const std::byte* source,
                                                         std::size_t length) noexcept {
  Vector first;
  Vector second;
  switch (length) {
    case 1: return copy_word<std::uint8_t>(destination, source);
    case 2: return copy_word<std::uint16_t>(destination, source);
    case 4: return copy_word<std::uint32_t>(destination, source);
    case 8: return copy_word<std::uint64_t>(destination, source);
    case 16: return load_vector(source, first) && store_vector(destination, first);
    case 32:
      return load_vector(source, first) && load_vector(source + 16, second) &&
             store_vector(destination, first) && store_vector(destination + 16, second);
    default: return false;
  }
}

}  // namespace internal

/// As try_copy_outcome(). Returns the bytes copied: `length` when nothing faulted.
[[nodiscard]] inline std::size_t try_copy(std::byte* destination, const std::byte* source,
                                          std::size_t length) noexcept {
  if (__builtin_constant_p(length) && internal::copy_known(destination, source, length)) {
    return length;
  }
  return try_copy_outcome(destination, source, length).done;
}

/// Sets `length` bytes. Returns the bytes set: `length` when nothing faulted.
[[nodiscard]] std::size_t try_fill(std::byte* destination, std::byte value,
                                   std::size_t length) noexcept;

struct CompareOutcome {
  std::size_t equal;  ///< bytes compared and found equal before the first that differs or faults
  bool faulted;
};

/// Compares two blocks of `length` bytes.
[[nodiscard]] CompareOutcome try_compare(const std::byte* a, const std::byte* b,
                                         std::size_t length) noexcept;

/// One load instruction. Returns false, and leaves `to` alone, on a fault.
/// Requires (here and below): the address is a multiple of sizeof(T).
template <Word T>
[[nodiscard]] inline bool try_load(const T* from, T& to) noexcept {
  internal::Bits<T> bits;
  if (!internal::load(from, bits)) [[unlikely]]
    return false;
  to = std::bit_cast<T>(bits);
  return true;
}

/// As try_load(). Later accesses stay behind it: the partner of the peer's release store.
template <Word T>
[[nodiscard]] inline bool try_load_acquire(const T* from, T& to) noexcept {
  internal::Bits<T> bits;
  if (!internal::load_acquire(from, bits)) [[unlikely]]
    return false;
  to = std::bit_cast<T>(bits);
  return true;
}

/// One store instruction. Returns false on a fault; memory is then as before.
template <Word T>
[[nodiscard]] inline bool try_store(T* to, std::type_identity_t<T> value) noexcept {
  return internal::store(to, std::bit_cast<internal::Bits<T>>(value));
}

/// As try_store(). Earlier accesses stay before it: the partner of the peer's acquire load.
template <Word T>
[[nodiscard]] inline bool try_store_release(T* to, std::type_identity_t<T> value) noexcept {
  return internal::store_release(to, std::bit_cast<internal::Bits<T>>(value));
}

enum class Exchange : std::uint8_t { kDifferent = 0, kExchanged = 1, kFaulted = 2 };

/// Stores `desired` if `*at` equals `expected`, as one sequentially consistent operation. On
/// kDifferent `expected` becomes what was found. Needs memory that may be written in every case.
template <Word T>
[[nodiscard]] inline Exchange try_compare_exchange(T* at, T& expected,
                                                   std::type_identity_t<T> desired) noexcept {
  auto bits = std::bit_cast<internal::Bits<T>>(expected);
  const unsigned state =
      internal::compare_exchange(at, bits, std::bit_cast<internal::Bits<T>>(desired));
  if (state == 0) expected = std::bit_cast<T>(bits);
  return static_cast<Exchange>(state);
}

/// Sets the one-bits of `bits` in `*at` as one sequentially consistent operation; with no bits it
/// asks whether the byte can be written without changing it. Returns false on a fault.
[[nodiscard]] inline bool try_set_bits(std::byte* at, std::byte bits) noexcept {
  return internal::set_bits(at, static_cast<std::uint8_t>(bits));
}

/// Whether the byte can be read now. The answer is old as soon as it is given.
[[nodiscard]] inline bool probe_read(const std::byte* at) noexcept {
  std::uint8_t ignored;
  return internal::load(at, ignored);
}
/// Whether the byte can be written now; it is not changed.
[[nodiscard]] inline bool probe_write(std::byte* at) noexcept {
  return try_set_bits(at, std::byte{0});
}

}  // namespace guestio::mem
