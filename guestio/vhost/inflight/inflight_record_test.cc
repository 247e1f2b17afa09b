// SPDX-License-Identifier: MIT
#include "guestio/vhost/inflight/inflight_record.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstring>
#include <limits>

#include "guestio/base/units.h"
#include "guestio/mem/recover.h"

namespace guestio::vhost {
namespace {

UniqueFd copy_of(const InflightRecord& record) { return UniqueFd(::dup(record.fd())); }

TEST(InflightRecord, ANewRecordIsEmptyAndHasARegionForEachQueue) {
  for (const virtio::RingKind kind : {virtio::RingKind::kSplit, virtio::RingKind::kPacked}) {
    const auto record = InflightRecord::create(kind, 3, 128);
    ASSERT_TRUE(record.has_value());
    const InflightDescription& description = (*record)->description();
    EXPECT_EQ(description.num_queues, 3);
    EXPECT_EQ(description.queue_size, 128);
    EXPECT_EQ(description.mmap_size % kPageSize, 0u);
    for (std::uint16_t queue = 0; queue < 3; ++queue) {
      const std::byte* const region = (*record)->region(queue, 128);
      ASSERT_NE(region, nullptr);
      const std::size_t bytes = inflight_region_bytes(kind, 128);
      EXPECT_TRUE(
          std::all_of(region, region + bytes, [](std::byte b) { return b == std::byte{0}; }));
    }
    EXPECT_EQ((*record)->region(3, 128), nullptr);
    EXPECT_EQ((*record)->region(0, 129), nullptr);
  }
}

TEST(InflightRecord, AReturnedFileIsTheSameMemory) {
  const auto record = *InflightRecord::create(virtio::RingKind::kSplit, 1, 16);
  const auto again =
      InflightRecord::map(record->description(), copy_of(*record), virtio::RingKind::kSplit);
  ASSERT_TRUE(again.has_value());
  record->region(0, 16)[40] = std::byte{7};
  EXPECT_EQ((*again)->region(0, 16)[40], std::byte{7});
}

TEST(InflightRecord, Rule40InvalidDescriptionsAreRefused) {
  const auto record = *InflightRecord::create(virtio::RingKind::kSplit, 2, 128);
  const InflightDescription good = record->description();
  const auto is_refused = [&](const char* what, InflightDescription bad,
                              virtio::RingKind kind = virtio::RingKind::kSplit) {
    SCOPED_TRACE(what);
    const auto mapped = InflightRecord::map(bad, copy_of(*record), kind);
    ASSERT_FALSE(mapped.has_value());
    EXPECT_EQ(mapped.error().kind, ErrorKind::kPeerFault);
  };
  constexpr auto kMaximum = std::numeric_limits<std::uint64_t>::max();
  is_refused("no queues", {good.mmap_size, 0, 0, 128});
  is_refused("more queues than the limit", {good.mmap_size, 0, 257, 128});
  is_refused("queues without entries", {good.mmap_size, 0, 2, 0});
  is_refused("a split queue of 100", {good.mmap_size, 0, 2, 100});
  is_refused("too large queues", {good.mmap_size, 0, 2, 65535});
  is_refused("too small", {100, 0, 2, 128});
  is_refused("more queues than fit", {good.mmap_size, 0, 200, 128});
  is_refused("longer than the file", {good.mmap_size + 1, 0, 2, 128});
  is_refused("beyond the end of the file", {good.mmap_size, kPageSize, 2, 128});
  is_refused("an offset inside a page", {good.mmap_size - 64, 64, 2, 16});
  is_refused("a wrapping end", {good.mmap_size, kMaximum - 4095, 2, 128});
  is_refused("the entire address space", {kMaximum, 0, 2, 128});
  is_refused("entries of packed rings are larger", {4096 + 4096, 0, 2, 256},
             virtio::RingKind::kPacked);
}

TEST(InflightRecord, Rule40ADescriptorOfAnotherKindIsRefused) {
  UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  EXPECT_FALSE(InflightRecord::map({4096, 0, 1, 16}, std::move(event), virtio::RingKind::kSplit)
                   .has_value());
  EXPECT_FALSE(
      InflightRecord::map({4096, 0, 1, 16}, UniqueFd(), virtio::RingKind::kSplit).has_value());
}

TEST(InflightRecord, Rule40ATruncatedRecordIsAnErrorAndNoSignal) {
  ASSERT_TRUE(mem::install_fault_recovery().has_value());
  const auto record = *InflightRecord::create(virtio::RingKind::kSplit, 1, 128);
  ASSERT_EQ(::ftruncate(record->fd(), 0), 0);
  EXPECT_EQ(record->reset(0).error().kind, ErrorKind::kMemoryFault);
}

}  // namespace
}  // namespace guestio::vhost
