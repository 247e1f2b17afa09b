// SPDX-License-Identifier: MIT
// Copy, fill and compare for every architecture. Short blocks take a few accesses that overlap in
// the middle, long ones the architecture's loop. After a fault the rest is repeated byte by byte,
// to find the exact address and side.
#include <utility>

#include "guestio/mem/recover.h"

namespace guestio::mem {

namespace {

using internal::Vector;

constexpr std::size_t kVectorSize = sizeof(Vector);

/// Bytes [done, length), one at a time. Bytes before `done` are copied.
[[gnu::cold, gnu::noinline]] CopyOutcome copy_bytes(std::byte* destination, const std::byte* source,
                                                    std::size_t done, std::size_t length) noexcept {
  for (; done < length; ++done) {
    std::uint8_t byte;
    if (!internal::load(source + done, byte)) return {done, FaultSide::kSource};
    if (!internal::store(destination + done, byte)) return {done, FaultSide::kDestination};
  }
  return {length, FaultSide::kNone};
}

[[gnu::cold, gnu::noinline]] std::size_t fill_bytes(std::byte* destination, std::byte value,
                                                    std::size_t done, std::size_t length) noexcept {
  while (done < length && internal::store(destination + done, static_cast<std::uint8_t>(value))) {
    ++done;
  }
  return done;
}

CompareOutcome compare_bytes(const std::byte* a, const std::byte* b, std::size_t done,
                             std::size_t length) noexcept {
  for (; done < length; ++done) {
    std::uint8_t x;
    std::uint8_t y;
    if (!internal::load(a + done, x) || !internal::load(b + done, y)) return {done, true};
    if (x != y) return {done, false};
  }
  return {length, false};
}

/// A block of sizeof(Piece) to twice that: its first and its last bytes. False on a fault.
template <typename Chunk>
[[gnu::always_inline]] inline bool copy_two(std::byte* to, const std::byte* from,
                                            std::size_t length) noexcept {
  const std::size_t last = length - sizeof(Chunk);
  Chunk x;
  Chunk y;
  return internal::load(from, x) && internal::load(from + last, y) && internal::store(to, x) &&
         internal::store(to + last, y);
}

template <typename Chunk>
[[gnu::always_inline]] inline bool fill_two(std::byte* to, std::uint64_t pattern,
                                            std::size_t length) noexcept {
  const auto piece = static_cast<Chunk>(pattern);
  return internal::store(to, piece) && internal::store(to + length - sizeof(Chunk), piece);
}

/// A block of sizeof...(I) vectors to twice that: its first and its last bytes. False on a fault.
template <std::size_t... I>
[[gnu::always_inline]] inline bool copy_vectors(std::byte* to, const std::byte* from,
                                                std::size_t length,
                                                std::index_sequence<I...>) noexcept {
  const std::size_t last = length - sizeof...(I) * kVectorSize;
  Vector head[sizeof...(I)];
  Vector tail[sizeof...(I)];
  return (internal::load_vector(from + I * kVectorSize, head[I]) && ...) &&
         (internal::load_vector(from + last + I * kVectorSize, tail[I]) && ...) &&
         (internal::store_vector(to + I * kVectorSize, head[I]) && ...) &&
         (internal::store_vector(to + last + I * kVectorSize, tail[I]) && ...);
}

template <std::size_t... I>
[[gnu::always_inline]] inline bool fill_vectors(std::byte* to, Vector pattern, std::size_t length,
                                                std::index_sequence<I...>) noexcept {
  const std::size_t last = length - sizeof...(I) * kVectorSize;
  return (internal::store_vector(to + I * kVectorSize, pattern) && ...) &&
         (internal::store_vector(to + last + I * kVectorSize, pattern) && ...);
}

using One = std::make_index_sequence<1>;
using Two = std::make_index_sequence<2>;
using Four = std::make_index_sequence<4>;

/// Blocks of up to 128 bytes. False on a fault.
[[gnu::always_inline]] inline bool copy_short(std::byte* to, const std::byte* from,
                                              std::size_t length) noexcept {
  if (length >= 16) {
    if (length <= 32) return copy_vectors(to, from, length, One());
    if (length <= 64) return copy_vectors(to, from, length, Two());
    return copy_vectors(to, from, length, Four());
  }
  if (length >= 8) return copy_two<std::uint64_t>(to, from, length);
  if (length >= 4) return copy_two<std::uint32_t>(to, from, length);
  if (length >= 2) return copy_two<std::uint16_t>(to, from, length);
  if (length == 0) return true;
  std::uint8_t byte;
  return internal::load(from, byte) && internal::store(to, byte);
}

[[gnu::always_inline]] inline bool fill_short(std::byte* to, std::uint8_t value,
                                              std::size_t length) noexcept {
  if (length >= 16) {
    const Vector pattern = internal::broadcast(value);
    if (length <= 32) return fill_vectors(to, pattern, length, One());
    if (length <= 64) return fill_vectors(to, pattern, length, Two());
    return fill_vectors(to, pattern, length, Four());
  }
  const std::uint64_t pattern = value * 0x0101'0101'0101'0101u;
  if (length >= 8) return fill_two<std::uint64_t>(to, pattern, length);
  if (length >= 4) return fill_two<std::uint32_t>(to, pattern, length);
  if (length >= 2) return fill_two<std::uint16_t>(to, pattern, length);
  if (length == 0) return true;
  return internal::store(to, value);
}

constexpr std::size_t kLongestShort = 8 * kVectorSize;

}  // namespace

CopyOutcome try_copy_outcome(std::byte* destination, const std::byte* source,
                             std::size_t length) noexcept {
  std::size_t done = 0;
  if (length <= kLongestShort) [[likely]] {
    if (copy_short(destination, source, length)) [[likely]]
      return {length, FaultSide::kNone};
  } else {
    done = internal::copy_long(destination, source, length);
    if (done == length) [[likely]]
      return {length, FaultSide::kNone};
  }
  return copy_bytes(destination, source, done, length);
}

std::size_t try_fill(std::byte* destination, std::byte value, std::size_t length) noexcept {
  std::size_t done = 0;
  if (length <= kLongestShort) [[likely]] {
    if (fill_short(destination, static_cast<std::uint8_t>(value), length)) [[likely]]
      return length;
  } else {
    done = internal::fill_long(destination, value, length);
    if (done == length) [[likely]]
      return length;
  }
  return fill_bytes(destination, value, done, length);
}

CompareOutcome try_compare(const std::byte* a, const std::byte* b, std::size_t length) noexcept {
  std::size_t done = 0;
  for (; length - done >= kVectorSize; done += kVectorSize) {
    Vector x;
    Vector y;
    if (!internal::load_vector(a + done, x) || !internal::load_vector(b + done, y)) break;
    if (!internal::equal(x, y)) break;
  }
  return compare_bytes(a, b, done, length);
}

}  // namespace guestio::mem
