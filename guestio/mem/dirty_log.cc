// SPDX-License-Identifier: MIT
#include "guestio/mem/dirty_log.h"

#include <atomic>

#include "guestio/mem/recover.h"

namespace guestio::mem {

namespace {

/// The bits [first, last] of one byte, both at most 7.
std::byte bits_between(std::uint64_t first, std::uint64_t last) noexcept {
  return static_cast<std::byte>((0xffu << first) & (0xffu >> (7 - last)));
}

std::unexpected<Error> fault_at(const std::byte* address) noexcept {
  return fail(ErrorKind::kMemoryFault, "dirty log", reinterpret_cast<std::uintptr_t>(address));
}

/// Compare-exchange attempts: a peer that keeps changing the byte collects no marks.
constexpr int kMaxTakeAttempts = 1000;

/// Sets bits. A byte with these bits set is only read, so its cache line stays shared.
bool set_missing_bits(std::byte* at, std::byte bits) noexcept {
  std::byte seen{};
  if (!try_load(at, seen)) return false;
  return (seen & bits) == bits || try_set_bits(at, bits);
}

}  // namespace

Result<DirtyLog> DirtyLog::for_memory(ByteCount memory) {
  if (memory.raw() == 0) return fail(ErrorKind::kInvalidArgument, "size of a dirty log");
  auto bitmap = Mapping::anonymous((memory.raw() - 1) / (kPageSize * 8) + 1);
  if (!bitmap) return fail(bitmap.error());
  return DirtyLog(std::move(*bitmap));
}

Result<> DirtyLog::mark(AddressRange written) const noexcept {
  if (written.is_empty()) return {};
  // A set bit is not written again and may be collected right after. Its collector must see the
  // bytes: without the fence a processor may read the bit before its stores are visible.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  std::uint64_t page = Gpn::containing(written.start()).raw();
  const std::uint64_t last = Gpn::containing(written.last()).raw();
  while (page <= last) {
    const std::uint64_t index = page / 8;
    if (index >= bitmap_.size()) [[unlikely]] {
      return fail(ErrorKind::kOutOfRange, "dirty log", page, bitmap_.size() * 8);
    }
    const std::uint64_t last_here = last / 8 == index ? last % 8 : 7;
    std::byte* const at = bitmap_.data() + index;
    if (!set_missing_bits(at, bits_between(page % 8, last_here))) [[unlikely]]
      return fault_at(at);
    page = (index + 1) * 8;
  }
  return {};
}

bool DirtyLog::is_marked(Gpn page) const noexcept {
  const std::uint64_t index = page.raw() / 8;
  std::byte seen{};
  if (index >= bitmap_.size() || !try_load(bitmap_.data() + index, seen)) return false;
  return (seen & bits_between(page.raw() % 8, page.raw() % 8)) != std::byte{0};
}

Result<std::byte> DirtyLog::take(std::uint64_t byte_index) const noexcept {
  if (byte_index >= bitmap_.size()) {
    return fail(ErrorKind::kOutOfRange, "dirty log", byte_index, bitmap_.size());
  }
  std::byte* const at = bitmap_.data() + byte_index;
  std::byte seen{};
  if (!try_load(at, seen)) return fault_at(at);
  for (int attempt = 0; attempt < kMaxTakeAttempts; ++attempt) {
    switch (try_compare_exchange(at, seen, std::byte{0})) {
      case Exchange::kExchanged: return seen;
      case Exchange::kFaulted: return fault_at(at);
      case Exchange::kDifferent: break;  // `seen` holds the newer bits
    }
  }
  return fail(ErrorKind::kBusy, "dirty log", byte_index);
}

}  // namespace guestio::mem
