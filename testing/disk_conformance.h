// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

// Without its folder: both are installed, in guestio/testing.
#include "disk_subject.h"
#include "guestio/disk/disk.h"

/// Conformance suite of every disk backend. Test files instantiate it with their disks.
namespace guestio::testing {

class DiskConformance : public ::testing::TestWithParam<DiskKind> {
 protected:
  static constexpr std::size_t kMemoryBytes = std::size_t{8} << 20;
  static constexpr std::uint64_t kDiskBytes = std::uint64_t{4} << 20;

  void SetUp() override {
    subject_ = GetParam().make();
    if (!subject_) GTEST_SKIP() << "no such disk on this machine";
    memory_ = *mem::GuestMemory::allocate(ByteCount(kMemoryBytes));
    ASSERT_EQ(subject_->info().size, ByteCount(kDiskBytes));
  }

  /// Splits [at, at + length) of guest memory into up to `count` extents with gaps between them.
  std::vector<mem::AddressRange> split(std::uint64_t at, std::uint64_t length, std::size_t count) {
    std::vector<mem::AddressRange> extents;
    while (length != 0) {
      const std::uint64_t limit = count <= 1 ? length : length / count + 1;
      const std::uint64_t size = count <= 1 ? length : 1 + random_() % limit;
      extents.push_back(mem::AddressRange::from_checked(Gpa(at), size));
      at += size + random_() % 700;
      length -= size;
      if (count > 1) --count;
    }
    return extents;
  }
  void prepare(TestIo& io, disk::IoKind kind, std::uint64_t offset, std::uint64_t length) {
    io.kind = kind;
    io.offset = FileOffset(offset);
    io.length = length;
    io.result.reset();
    if (kind != disk::IoKind::kRead && kind != disk::IoKind::kWrite) return;
    io.buffers = *buf::RequestBuffers::from_extents(
        memory_, io.extents,
        kind == disk::IoKind::kRead ? buf::MemoryAccess::kWritable : buf::MemoryAccess::kReadOnly);
  }
  Result<> perform(TestIo& io, disk::IoKind kind, std::uint64_t offset, std::uint64_t length) {
    prepare(io, kind, offset, length);
    subject_->channel().start(io);
    subject_->run_until([&] { return io.result.has_value(); });
    EXPECT_EQ(std::exchange(io.times_done, 0), 1);
    return *io.result;
  }
  Result<> write(std::uint64_t offset, std::span<const std::byte> data, std::size_t count = 1,
                 std::uint64_t at = 0) {
    TestIo io;
    io.extents = split(at, data.size(), count);
    scatter(io.extents, data);
    return perform(io, disk::IoKind::kWrite, offset, data.size());
  }
  std::vector<std::byte> read(std::uint64_t offset, std::size_t size, std::size_t count = 1,
                              std::uint64_t at = 0) {
    TestIo io;
    io.extents = split(at, size, count);
    EXPECT_TRUE(perform(io, disk::IoKind::kRead, offset, size));
    return gather(io.extents);
  }
  void scatter(const std::vector<mem::AddressRange>& extents, std::span<const std::byte> data) {
    for (const auto& extent : extents) {
      ASSERT_TRUE(memory_.write(extent.start(), data.first(extent.length())));
      data = data.subspan(extent.length());
    }
  }
  std::vector<std::byte> gather(const std::vector<mem::AddressRange>& extents) {
    std::vector<std::byte> all;
    for (const auto& extent : extents) {
      std::vector<std::byte> part(extent.length());
      EXPECT_TRUE(memory_.read(extent.start(), part));
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }
  std::vector<std::byte> make_pattern(std::size_t size) {
    std::vector<std::byte> bytes(size);
    for (auto& byte : bytes) byte = static_cast<std::byte>(random_());
    return bytes;
  }

  std::mt19937_64 random_{42};
  mem::GuestMemory memory_;
  std::unique_ptr<DiskSubject> subject_;
};

TEST_P(DiskConformance, ReadsBackWrittenData) {
  const auto pattern = make_pattern(std::size_t{256} * 1024);
  ASSERT_TRUE(write(4096, pattern));
  EXPECT_EQ(read(4096, pattern.size()), pattern);
}

TEST_P(DiskConformance, AcceptsMemoryOfAnyLayout) {
  for (const std::size_t count : {2U, 5U, 16U, 17U, 100U, 1500U}) {
    for (const std::uint64_t at : {0U, 1U, 512U, 4095U}) {
      const auto pattern = make_pattern(std::size_t{48} * 512);
      ASSERT_TRUE(write(512 * count, pattern, count, at)) << count << " at " << at;
      ASSERT_EQ(read(512 * count, pattern.size(), count + 1, at + 7), pattern) << count;
    }
  }
}

TEST_P(DiskConformance, AnEmptyRequestSucceeds) {
  TestIo io;
  EXPECT_TRUE(perform(io, disk::IoKind::kRead, 0, 0));
  EXPECT_TRUE(perform(io, disk::IoKind::kWrite, kDiskBytes, 0));
  EXPECT_TRUE(perform(io, disk::IoKind::kFlush, 0, 0));
}

TEST_P(DiskConformance, RefusesRangesOutsideTheDisk) {
  TestIo io;
  io.extents = split(0, 1024, 1);
  for (const auto kind : {disk::IoKind::kRead, disk::IoKind::kWrite, disk::IoKind::kWriteZeroes}) {
    EXPECT_FALSE(perform(io, kind, kDiskBytes - 512, 1024));
    EXPECT_FALSE(perform(io, kind, ~std::uint64_t{0} - 511, 1024));
  }
}

TEST_P(DiskConformance, RefusesPartialBlocks) {
  TestIo io;
  io.extents = split(0, 100, 1);
  EXPECT_FALSE(perform(io, disk::IoKind::kRead, 0, 100));
  io.extents = split(0, 512, 1);
  EXPECT_FALSE(perform(io, disk::IoKind::kRead, 10, 512));
}

TEST_P(DiskConformance, TheLastBlockIsUsable) {
  const auto pattern = make_pattern(512);
  ASSERT_TRUE(write(kDiskBytes - 512, pattern));
  EXPECT_EQ(read(kDiskBytes - 512, 512, 1, 3), pattern);
}

TEST_P(DiskConformance, ZeroedRangesReadAsZeroes) {
  const auto pattern = make_pattern(std::size_t{128} * 1024);
  for (const auto unmap : {disk::Unmap::kForbidden, disk::Unmap::kAllowed}) {
    ASSERT_TRUE(write(0, pattern));
    TestIo io;
    io.unmap = unmap;
    ASSERT_TRUE(perform(io, disk::IoKind::kWriteZeroes, 512, 65536));
    auto expected = pattern;
    std::fill_n(expected.begin() + 512, 65536, std::byte{0});
    EXPECT_EQ(read(0, pattern.size()), expected);
  }
}

TEST_P(DiskConformance, ADiscardLeavesTheRestAlone) {
  if (!subject_->info().discard) GTEST_SKIP() << "this disk offers no discard";
  const auto pattern = make_pattern(std::size_t{128} * 1024);
  ASSERT_TRUE(write(0, pattern));
  TestIo io;
  ASSERT_TRUE(perform(io, disk::IoKind::kDiscard, 8192 + 512, 65536));
  const auto after = read(0, pattern.size());
  EXPECT_TRUE(std::equal(after.begin(), after.begin() + 8192 + 512, pattern.begin()));
  EXPECT_TRUE(std::equal(after.begin() + 8192 + 512 + 65536, after.end(),
                         pattern.begin() + 8192 + 512 + 65536));
}

TEST_P(DiskConformance, StableWritesAreWritten) {
  TestIo io;
  io.durability = disk::Durability::kStable;
  io.extents = split(1, 4096, 3);
  const auto pattern = make_pattern(4096);
  scatter(io.extents, pattern);
  ASSERT_TRUE(perform(io, disk::IoKind::kWrite, 0, 4096));
  EXPECT_EQ(read(0, 4096), pattern);
}

TEST_P(DiskConformance, UnmappedMemoryFailsItsRequestOnly) {
  TestIo io;
  io.extents = {mem::AddressRange::from_checked(Gpa(kMemoryBytes - 512), 1024)};
  EXPECT_FALSE(perform(io, disk::IoKind::kRead, 0, 1024));
  EXPECT_FALSE(perform(io, disk::IoKind::kWrite, 0, 1024));
  EXPECT_TRUE(write(0, make_pattern(4096)));
}

TEST_P(DiskConformance, ManyConcurrentRequestsCompleteOnceEach) {
  constexpr std::size_t kRequests = 1024;
  constexpr std::size_t kBytes = 4096;
  const auto pattern = make_pattern(kRequests * kBytes);
  std::deque<TestIo> all(kRequests);
  const auto wait = [&] {
    subject_->run_until([&] {
      return std::ranges::all_of(all, [](const TestIo& io) { return io.result.has_value(); });
    });
  };
  for (std::size_t i = 0; i < kRequests; ++i) {
    // One in three is misaligned and must be bounced.
    const std::uint64_t at = i * (kBytes + 512) + (i % 3 == 0 ? 1 : 0);
    all[i].extents = {mem::AddressRange::from_checked(Gpa(at), kBytes)};
    scatter(all[i].extents, std::span(pattern).subspan(i * kBytes, kBytes));
    prepare(all[i], disk::IoKind::kWrite, i * kBytes, kBytes);
    subject_->channel().start(all[i]);
  }
  wait();
  for (std::size_t i = 0; i < kRequests; ++i) {
    ASSERT_TRUE(*all[i].result) << i;
    ASSERT_EQ(all[i].times_done, 1) << i;
  }
  EXPECT_EQ(read(0, pattern.size()), pattern);
}

TEST_P(DiskConformance, AdjacentWritesInOneBlockKeepEachOthersBytes) {
  // One request for each sector of some 4 KiB blocks, all in flight at once.
  constexpr std::size_t kSectors = 256;
  const auto pattern = make_pattern(kSectors * 512);
  std::deque<TestIo> all(kSectors);
  for (std::size_t i = 0; i < kSectors; ++i) {
    all[i].extents = {mem::AddressRange::from_checked(Gpa(i * 1024), 512)};
    scatter(all[i].extents, std::span(pattern).subspan(i * 512, 512));
    prepare(all[i], disk::IoKind::kWrite, i * 512, 512);
  }
  std::vector<std::size_t> order(kSectors);
  for (std::size_t i = 0; i < kSectors; ++i) order[i] = i;
  std::ranges::shuffle(order, random_);
  for (const std::size_t i : order) subject_->channel().start(all[i]);
  subject_->run_until([&] {
    return std::ranges::all_of(all, [](const TestIo& io) { return io.result.has_value(); });
  });
  EXPECT_EQ(read(0, pattern.size()), pattern);
}

TEST_P(DiskConformance, RandomRequestsAgreeWithAModel) {
  std::vector<std::byte> model(kDiskBytes);
  {
    TestIo io;
    ASSERT_TRUE(perform(io, disk::IoKind::kWriteZeroes, 0, kDiskBytes));
  }
  for (int round = 0; round < 600; ++round) {
    const std::uint64_t sectors = 1 + random_() % 200;
    const std::uint64_t sector = random_() % (kDiskBytes / 512 - sectors);
    const std::uint64_t offset = sector * 512;
    const std::size_t size = sectors * 512;
    const std::size_t count = 1 + random_() % 20;
    const std::uint64_t at = random_() % 8192;
    switch (random_() % 4) {
      case 0: {
        const auto pattern = make_pattern(size);
        ASSERT_TRUE(write(offset, pattern, count, at));
        std::ranges::copy(pattern, model.begin() + static_cast<std::ptrdiff_t>(offset));
        break;
      }
      case 1: {
        TestIo io;
        io.unmap = random_() % 2 == 0 ? disk::Unmap::kAllowed : disk::Unmap::kForbidden;
        ASSERT_TRUE(perform(io, disk::IoKind::kWriteZeroes, offset, size));
        std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(offset), size, std::byte{0});
        break;
      }
      default: {
        const auto got = read(offset, size, count, at);
        ASSERT_TRUE(
            std::equal(got.begin(), got.end(), model.begin() + static_cast<std::ptrdiff_t>(offset)))
            << "round " << round;
      }
    }
  }
}

}  // namespace guestio::testing
