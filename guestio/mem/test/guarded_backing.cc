// SPDX-License-Identifier: MIT
#include "guestio/mem/test/guarded_backing.h"

#include <sys/mman.h>

#include "guestio/base/check.h"
#include "guestio/base/unique_fd.h"

namespace guestio::mem::test {

GuardedBacking::GuardedBacking(const Options& options)
    : options_(options),
      readable_((options.size / kPageSize + 64) / 64),
      writable_((options.size / kPageSize + 64) / 64) {
  const UniqueFd file(::memfd_create("guarded-backing", MFD_CLOEXEC));
  const std::size_t whole_pages = align_up(options.size, kPageSize);
  GUESTIO_CHECK(::ftruncate(file.get(), static_cast<off_t>(whole_pages)) == 0, "a memory file");
  const auto map = [&] {
    return *Mapping::shared_file(file.get(), FileOffset(0), whole_pages,
                                 Mapping::Access::kReadWrite);
  };
  truth_ = map();
  shown_ = map();
  for (auto& word : readable_) word = ~std::uint64_t{0};
  for (auto& word : writable_) word = ~std::uint64_t{0};
}

void GuardedBacking::allow(Access access, std::uint64_t page, bool allowed) {
  auto& word = (access == Access::kWrite ? writable_ : readable_)[page / 64];
  const std::uint64_t bit = std::uint64_t{1} << (page % 64);
  word = allowed ? word | bit : word & ~bit;
}

void GuardedBacking::protect(std::uint64_t page, Mapping::Access access) {
  const int protection = access == Mapping::Access::kNone   ? PROT_NONE
                         : access == Mapping::Access::kRead ? PROT_READ
                                                            : PROT_READ | PROT_WRITE;
  GUESTIO_CHECK(::mprotect(shown_.data() + page * kPageSize, kPageSize, protection) == 0,
                "to protect a page");
}

std::optional<AccessBitmap> GuardedBacking::bitmap(Access access) const noexcept {
  if (access == Access::kRead && options_.read_bitmap) return AccessBitmap(readable_);
  if (access == Access::kWrite && options_.write_bitmap) return AccessBitmap(writable_);
  return std::nullopt;
}

FaultAction GuardedBacking::on_page_fault(const PageFault& fault) noexcept {
  faults.push_back(fault);
  return fault_hook ? fault_hook(fault) : FaultAction::kFail;
}

Result<> GuardedBacking::read_fallback(std::uint64_t offset, std::span<std::byte> to) noexcept {
  fallbacks.push_back({offset, to.size()});
  std::memcpy(to.data(), truth_.data() + offset, to.size());
  return {};
}

Result<> GuardedBacking::write_fallback(std::uint64_t offset,
                                        std::span<const std::byte> from) noexcept {
  fallbacks.push_back({offset, from.size()});
  std::memcpy(truth_.data() + offset, from.data(), from.size());
  return {};
}

Result<> GuardedBacking::fill_fallback(std::uint64_t offset, std::byte value,
                                       std::uint64_t length) noexcept {
  fallbacks.push_back({offset, length});
  std::memset(truth_.data() + offset, static_cast<int>(value), length);
  return {};
}

Result<bool> GuardedBacking::compare_exchange_fallback(
    std::uint64_t offset, std::span<std::byte> expected,
    std::span<const std::byte> desired) noexcept {
  fallbacks.push_back({offset, desired.size()});
  std::byte* const at = truth_.data() + offset;
  if (std::memcmp(at, expected.data(), expected.size()) != 0) {
    std::memcpy(expected.data(), at, expected.size());
    return false;
  }
  std::memcpy(at, desired.data(), desired.size());
  return true;
}

Result<> GuardedBacking::lock_pages(std::uint64_t offset, std::uint64_t length) noexcept {
  if (locks++ >= fail_lock.value_or(~std::size_t{0})) {
    return fail(ErrorKind::kNotLockable, "guarded memory", offset);
  }
  locked.push_back({offset, length});
  return {};
}

void GuardedBacking::unlock_pages(std::uint64_t offset, std::uint64_t length) noexcept {
  const auto it = std::ranges::find(locked, Extent{offset, length});
  GUESTIO_CHECK(it != locked.end(), "to unlock locked pages");
  locked.erase(it);
  ++unlocks;
}

Result<> GuardedBacking::expose(std::uint64_t offset, std::uint64_t length) noexcept {
  exposed.push_back({offset, length});
  return {};
}

}  // namespace guestio::mem::test
