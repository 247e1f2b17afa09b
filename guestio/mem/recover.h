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

/// Access to memory that a hostile peer can change or unmap at any moment. If it truncates the file
/// behind the memory, an ordinary copy raises SIGBUS. Every operation here returns an outcome
/// instead.
///
/// How it works: a table (section guestio_recovery) maps each faulting instruction to its recovery
/// address. The signal handler looks up the instruction and continues there. An access without a
/// fault has no overhead.
///
/// The accesses are inline assembly. A race with the guest is unavoidable and not undefined
/// behaviour. The compiler can neither repeat nor split the accesses, and sanitizers do not see
/// them.
///
/// Pointers are host addresses, mapped or not. Source and destination of one operation must not
/// overlap. Threads: any; a thread must not block SIGSEGV or SIGBUS.
namespace guestio::mem {

/// Types accessed by one instruction: trivially copyable, of 1, 2, 4 or 8 bytes.
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

// Set by the linker around the table of this binary or shared object.
extern "C" {
[[gnu::weak, gnu::visibility("hidden")]] extern const RecoveryEntry recovery_table_begin[] asm(
    "__start_guestio_recovery");
[[gnu::weak, gnu::visibility("hidden")]] extern const RecoveryEntry recovery_table_end[] asm(
    "__stop_guestio_recovery");
}

Result<> install_recovery_table(const RecoveryEntry* begin, const RecoveryEntry* end) noexcept;

}  // namespace internal

/// Installs handlers of SIGSEGV and SIGBUS for the process. Sent signals and faults of other
/// instructions go to the previous handler or have their default effect. May be called repeatedly.
/// A shared object with its own copy of this library calls it for itself. Errors: host.
[[gnu::visibility("hidden")]] inline Result<> install_fault_recovery() noexcept {
  return internal::install_recovery_table(internal::recovery_table_begin,
                                          internal::recovery_table_end);
}

/// The faulting side of a copy.
enum class FaultSide : std::uint8_t { kNone, kSource, kDestination };

struct CopyOutcome {
  std::size_t done;  ///< bytes copied, exactly: the next one faulted
  FaultSide fault;
};

/// Copies `length` bytes. After a fault on either side, all bytes before the faulting one are
/// copied and none after it is written.
[[nodiscard]] CopyOutcome try_copy_outcome(std::byte* destination, const std::byte* source,
                                           std::size_t length) noexcept;

namespace internal {

template <typename Bits>
[[nodiscard]] inline bool copy_word(std::byte* destination, const std::byte* source) noexcept {
  Bits bits;
  return load(source, bits) && store(destination, bits);
}

/// Inline copies of a length known to the compiler. False: not done, for any reason.
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

/// As try_copy_outcome(). Returns the bytes copied: `length` without a fault.
[[nodiscard]] inline std::size_t try_copy(std::byte* destination, const std::byte* source,
                                          std::size_t length) noexcept {
  if (__builtin_constant_p(length) && internal::copy_known(destination, source, length)) {
    return length;
  }
  return try_copy_outcome(destination, source, length).done;
}

/// Sets `length` bytes. Returns the bytes set: `length` without a fault.
[[nodiscard]] std::size_t try_fill(std::byte* destination, std::byte value,
                                   std::size_t length) noexcept;

struct CompareOutcome {
  std::size_t equal;  ///< equal bytes before the first difference or fault
  bool faulted;
};

/// Compares two blocks of `length` bytes.
[[nodiscard]] CompareOutcome try_compare(const std::byte* a, const std::byte* b,
                                         std::size_t length) noexcept;

/// One load instruction. On a fault returns false and leaves `to` unchanged.
/// Requires (here and below): the address is a multiple of sizeof(T).
template <Word T>
[[nodiscard]] inline bool try_load(const T* from, T& to) noexcept {
  internal::Bits<T> bits;
  if (!internal::load(from, bits)) [[unlikely]]
    return false;
  to = std::bit_cast<T>(bits);
  return true;
}

/// As try_load(), with acquire order: the partner of the peer's release store.
template <Word T>
[[nodiscard]] inline bool try_load_acquire(const T* from, T& to) noexcept {
  internal::Bits<T> bits;
  if (!internal::load_acquire(from, bits)) [[unlikely]]
    return false;
  to = std::bit_cast<T>(bits);
  return true;
}

/// One store instruction. Returns false on a fault; memory is then unchanged.
template <Word T>
[[nodiscard]] inline bool try_store(T* to, std::type_identity_t<T> value) noexcept {
  return internal::store(to, std::bit_cast<internal::Bits<T>>(value));
}

/// As try_store(), with release order: the partner of the peer's acquire load.
template <Word T>
[[nodiscard]] inline bool try_store_release(T* to, std::type_identity_t<T> value) noexcept {
  return internal::store_release(to, std::bit_cast<internal::Bits<T>>(value));
}

enum class Exchange : std::uint8_t { kDifferent = 0, kExchanged = 1, kFaulted = 2 };

/// Stores `desired` if `*at` equals `expected`, as one sequentially consistent operation. On
/// kDifferent `expected` becomes the found value. The memory must be writable in either case.
template <Word T>
[[nodiscard]] inline Exchange try_compare_exchange(T* at, T& expected,
                                                   std::type_identity_t<T> desired) noexcept {
  auto bits = std::bit_cast<internal::Bits<T>>(expected);
  const unsigned state =
      internal::compare_exchange(at, bits, std::bit_cast<internal::Bits<T>>(desired));
  if (state == 0) expected = std::bit_cast<T>(bits);
  return static_cast<Exchange>(state);
}

/// Sets `bits` in `*at` as one sequentially consistent operation. Zero bits probe for writability
/// without a change. Returns false on a fault.
[[nodiscard]] inline bool try_set_bits(std::byte* at, std::byte bits) noexcept {
  return internal::set_bits(at, static_cast<std::uint8_t>(bits));
}

/// Whether the byte can be read now. The result may be outdated immediately.
[[nodiscard]] inline bool probe_read(const std::byte* at) noexcept {
  std::uint8_t ignored;
  return internal::load(at, ignored);
}
/// Whether the byte can be written now. Does not change it.
[[nodiscard]] inline bool probe_write(std::byte* at) noexcept {
  return try_set_bits(at, std::byte{0});
}

}  // namespace guestio::mem
