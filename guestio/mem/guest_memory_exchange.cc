// SPDX-License-Identifier: MIT
// Compare-exchange on guest memory.
#include <cstring>

#include "guestio/mem/guest_memory.h"
#include "guestio/mem/guest_memory_check.h"
#include "guestio/mem/guest_memory_table.h"

namespace guestio::mem {

using internal::Region;
using internal::RegionSlice;

namespace {

/// The exchange itself, for one size.
template <typename Bits>
Exchange exchange_directly(std::byte* host, std::span<std::byte> expected,
                           std::span<const std::byte> desired) noexcept {
  Bits found;
  Bits value;
  std::memcpy(&found, expected.data(), sizeof(Bits));
  std::memcpy(&value, desired.data(), sizeof(Bits));
  const auto exchange = static_cast<Exchange>(internal::compare_exchange(host, found, value));
  if (exchange == Exchange::kDifferent) std::memcpy(expected.data(), &found, sizeof(Bits));
  return exchange;
}

Exchange exchange_directly(std::byte* host, std::span<std::byte> expected,
                           std::span<const std::byte> desired) noexcept {
  switch (expected.size()) {
    case 1: return exchange_directly<std::uint8_t>(host, expected, desired);
    case 2: return exchange_directly<std::uint16_t>(host, expected, desired);
    case 4: return exchange_directly<std::uint32_t>(host, expected, desired);
    default: return exchange_directly<std::uint64_t>(host, expected, desired);
  }
}

/// A compare-exchange needs both permissions.
bool is_exchangeable(const RegionSlice& slice) noexcept {
  const Region& region = *slice.region;
  for (const auto& bitmap : {region.read_bitmap, region.write_bitmap}) {
    if (bitmap && !internal::is_allowed(*bitmap, slice.backing_offset())) return false;
  }
  return true;
}

Result<bool> exchange_in_piece(const RegionSlice& slice, std::span<std::byte> expected,
                               std::span<const std::byte> desired) noexcept {
  Backing& backing = *slice.region->backing;
  internal::FaultHandling faults;
  while (fits_within(slice.at, slice.length, slice.region->mapped)) {
    PageFault::Cause cause = PageFault::Cause::kDenied;
    if (is_exchangeable(slice)) {
      const Exchange exchange = exchange_directly(slice.host(), expected, desired);
      if (exchange != Exchange::kFaulted) return exchange == Exchange::kExchanged;
      cause = PageFault::Cause::kFaulted;
    }
    const FaultAction action = faults.decide(slice, Access::kWrite, cause);
    if (action == FaultAction::kFail) return internal::fail_fault(slice, cause);
    if (action == FaultAction::kFallBack) break;
  }
  return backing.compare_exchange_fallback(slice.backing_offset(), expected, desired);
}

}  // namespace

Result<bool> GuestMemory::compare_exchange_bytes(
    Gpa at, std::span<std::byte> expected, std::span<const std::byte> desired) const noexcept {
  const std::uint64_t size = expected.size();
  const Region* const region = table().find(at.raw());
  if (region == nullptr) return internal::fail_outside(table(), at.raw());
  const RegionSlice slice{region, at.raw() - region->start, size};
  // In a view with an unaligned start the host address counts too.
  const auto host = slice.at < region->mapped ? reinterpret_cast<std::uintptr_t>(slice.host()) : 0;
  if (!at.is_aligned_to(size) || !is_aligned(host, size)) {
    return fail(ErrorKind::kMisaligned, "compare-exchange in guest memory", at.raw(), size);
  }
  if (size > region->length - slice.at) {
    return internal::fail_outside(table(), region->start + region->length);
  }
  if (Result<> writable = internal::check_writable(slice, Access::kWrite); !writable) {
    return fail(writable.error());
  }
  const Result<bool> exchanged = exchange_in_piece(slice, expected, desired);
  if (exchanged && *exchanged && table().log != nullptr) {
    const auto written = AddressRange::from_checked(Gpa(region->log_address + slice.at), size);
    if (Result<> marked = table().log->mark(written); !marked) return fail(marked.error());
  }
  return exchanged;
}

}  // namespace guestio::mem
