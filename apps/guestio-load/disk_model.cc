// SPDX-License-Identifier: MIT
#include "apps/guestio-load/disk_model.h"

#include <algorithm>

#include "guestio/base/check.h"

namespace guestio::load {

DiskModel::DiskModel(DiskRegion region, std::uint32_t block_size)
    : region_(region),
      block_size_(block_size),
      blocks_(region.size.raw() / block_size),
      bytes_(blocks_ * block_size),
      known_(blocks_),
      reserved_(blocks_) {}

bool DiskModel::try_reserve(const Extent& extent, Access access) {
  const std::lock_guard lock(mutex_);
  const auto blocks = std::span(reserved_).subspan(extent.first, extent.count);
  const std::uint16_t most = access == Access::kRead ? kWriter - 2 : 0;
  if (std::ranges::any_of(blocks, [most](std::uint16_t state) { return state > most; })) {
    return false;
  }
  for (std::uint16_t& state : blocks) {
    state = access == Access::kWrite ? kWriter : static_cast<std::uint16_t>(state + 1);
  }
  return true;
}

void DiskModel::release(const Extent& extent, Access access) {
  const std::lock_guard lock(mutex_);
  for (std::uint16_t& state : std::span(reserved_).subspan(extent.first, extent.count)) {
    GUESTIO_CHECK(access == Access::kWrite ? state == kWriter : state != 0 && state != kWriter,
                  "a reserved block");
    state = access == Access::kWrite ? std::uint16_t{0} : static_cast<std::uint16_t>(state - 1);
  }
}

void DiskModel::set(const Extent& extent, std::span<const std::byte> bytes) {
  GUESTIO_CHECK(bytes.size() == bytes_of(extent), "the size of the extent");
  std::ranges::copy(bytes,
                    bytes_.begin() + static_cast<std::ptrdiff_t>(extent.first * block_size_));
  std::ranges::fill(std::span(known_).subspan(extent.first, extent.count), std::uint8_t{1});
}

void DiskModel::set_zero(const Extent& extent) {
  std::ranges::fill(std::span(bytes_).subspan(extent.first * block_size_, bytes_of(extent)),
                    std::byte{0});
  std::ranges::fill(std::span(known_).subspan(extent.first, extent.count), std::uint8_t{1});
}

void DiskModel::forget(const Extent& extent) {
  std::ranges::fill(std::span(known_).subspan(extent.first, extent.count), std::uint8_t{0});
}

std::span<const std::byte> DiskModel::expected(const Extent& extent) const {
  return std::span(bytes_).subspan(extent.first * block_size_, bytes_of(extent));
}

std::optional<DiskModel::Mismatch> DiskModel::compare(const Extent& extent,
                                                      std::span<const std::byte> found) const {
  GUESTIO_CHECK(found.size() == bytes_of(extent), "the size of the extent");
  for (std::uint64_t i = 0; i < extent.count; ++i) {
    if (known_[extent.first + i] == 0) continue;
    const auto should = expected({extent.first + i, 1});
    const auto is = found.subspan(i * block_size_, block_size_);
    const auto [wanted, got] = std::ranges::mismatch(should, is);
    if (wanted == should.end()) continue;
    const auto index = static_cast<std::size_t>(i * block_size_) +
                       static_cast<std::size_t>(wanted - should.begin());
    return Mismatch{offset_of(extent).plus_unchecked(index), index, *wanted, *got};
  }
  return std::nullopt;
}

}  // namespace guestio::load
