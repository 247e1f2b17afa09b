// SPDX-License-Identifier: MIT
#include "guestio/disk/remote/unflushed_writes.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

namespace guestio::disk {
namespace {

using Work = RemoteCommand::Work;
using Bytes = std::vector<std::byte>;

constexpr ByteCount kDiskSize(std::uint64_t{64} << 10);
constexpr std::uint64_t kRangeBlock = 4096;
constexpr ByteCount kLimit(std::uint64_t{16} << 10);

/// The contents of a disk.
class Model {
 public:
  void perform(const Work& work) {
    const auto bytes = std::span(bytes_).subspan(work.offset.raw(), work.length);
    switch (work.kind) {
      case IoKind::kWrite: std::ranges::copy(work.data, bytes.begin()); break;
      case IoKind::kWriteZeroes: std::ranges::fill(bytes, std::byte{0}); break;
      default: std::ranges::fill(bytes, std::byte{0xdd});
    }
  }
  friend bool operator==(const Model&, const Model&) = default;

 private:
  Bytes bytes_ = Bytes(kDiskSize.raw(), std::byte{1});
};

/// All writes from the first on, in any order within a batch.
void repeat(const UnflushedWrites& writes, Model& model, std::mt19937_64& random) {
  auto at = writes.begin();
  for (auto batch = writes.next_batch(at, kRangeBlock); !batch.empty();
       batch = writes.next_batch(at, kRangeBlock)) {
    std::ranges::shuffle(batch, random);
    for (const Work& work : batch) model.perform(work);
  }
  EXPECT_EQ(at, writes.end());
}

Work random_work(std::mt19937_64& random, Bytes& data) {
  constexpr std::array kKinds = {IoKind::kWrite, IoKind::kWrite, IoKind::kWriteZeroes,
                                 IoKind::kDiscard};
  Work work{.kind = kKinds[random() % kKinds.size()],
            .durability = Durability::kStable,
            .unmap = random() % 2 == 0 ? Unmap::kAllowed : Unmap::kForbidden};
  const std::uint64_t start = random() % 60;
  work.offset = FileOffset(start << 10);
  work.length = (1 + random() % 4) << 10;
  if (work.kind == IoKind::kWrite) {
    data.assign(work.length, static_cast<std::byte>(random()));
    work.data = data;
  }
  return work;
}

TEST(UnflushedWrites, ARestartedServerGetsAllSinceTheFlushInTheirOrder) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 50; ++round) {
    UnflushedWrites writes(kLimit);
    Model acknowledged;
    Model flushed;
    const auto write_some = [&] {
      for (std::uint64_t left = random() % 100; left != 0; --left) {
        Bytes data;
        const Work work = random_work(random, data);
        acknowledged.perform(work);
        writes.add(work);
        std::ranges::fill(data, std::byte{0xee});  // the bounce memory has other data now
      }
    };
    write_some();
    const auto begun = writes.end();
    flushed = acknowledged;
    write_some();  // during the flush
    writes.drop_before(begun);
    EXPECT_EQ(writes.begin(), begun);
    Model restarted = flushed;
    repeat(writes, restarted, random);
    EXPECT_TRUE(restarted == acknowledged);
    // The same in another process.
    const auto file = writes.save();
    ASSERT_TRUE(file.has_value());
    UnflushedWrites loaded(kLimit);
    ASSERT_TRUE(loaded.load(*file, kDiskSize));
    EXPECT_EQ(loaded.is_empty(), writes.is_empty());
    EXPECT_EQ(loaded.is_full(), writes.is_full());
    restarted = flushed;
    repeat(loaded, restarted, random);
    EXPECT_TRUE(restarted == acknowledged);
  }
}

TEST(UnflushedWrites, AreFullAboveTheLimitUntilAFlush) {
  UnflushedWrites writes(kLimit);
  Bytes data(4096);
  const Work work{.kind = IoKind::kWrite, .length = data.size(), .data = data};
  for (int i = 0; i < 3; ++i) writes.add(work);
  EXPECT_FALSE(writes.is_full());
  writes.add(work);
  EXPECT_TRUE(writes.is_full());
  writes.drop_before(writes.begin() + 1);
  EXPECT_FALSE(writes.is_full());
  writes.drop_before(writes.end() + 7);
  EXPECT_TRUE(writes.is_empty());
}

TEST(UnflushedWrites, ManyRangesAreFullToo) {
  UnflushedWrites writes(kLimit);
  for (int i = 0; i < 1000 && !writes.is_full(); ++i) {
    writes.add({.kind = IoKind::kDiscard, .length = 512});
  }
  EXPECT_TRUE(writes.is_full());
}

TEST(UnflushedWrites, ABatchHasNoOverlap) {
  UnflushedWrites writes(kLimit);
  Bytes data(1024);
  for (const std::uint64_t offset : {0U, 1024U, 512U, 4096U}) {
    writes.add({.kind = IoKind::kWrite,
                .offset = FileOffset(offset),
                .length = data.size(),
                .data = data});
  }
  auto at = writes.begin();
  EXPECT_EQ(writes.next_batch(at, kRangeBlock).size(), 2U);
  EXPECT_EQ(writes.next_batch(at, kRangeBlock).size(), 2U);
  EXPECT_TRUE(writes.next_batch(at, kRangeBlock).empty());
  EXPECT_EQ(at, writes.end());
}

TEST(UnflushedWrites, ADiscardSharesNoBlockWithTheOthersOfItsBatch) {
  UnflushedWrites writes(kLimit);
  Bytes data(512);
  const auto add = [&](IoKind kind, std::uint64_t offset) {
    writes.add({.kind = kind,
                .offset = FileOffset(offset),
                .length = data.size(),
                .data = kind == IoKind::kWrite ? std::span(data) : std::span<std::byte>()});
  };
  add(IoKind::kDiscard, 0);
  add(IoKind::kWrite, kRangeBlock);
  add(IoKind::kWrite, 512);
  add(IoKind::kWriteZeroes, 1024);
  auto at = writes.begin();
  EXPECT_EQ(writes.next_batch(at, kRangeBlock).size(), 2U);
  EXPECT_EQ(writes.next_batch(at, kRangeBlock).size(), 1U);
  EXPECT_EQ(writes.next_batch(at, kRangeBlock).size(), 1U);
  at = writes.begin();
  EXPECT_EQ(writes.next_batch(at, 0).size(), 4U);
}

TEST(UnflushedWrites, AMalformedFileIsRejected) {
  UnflushedWrites writes(kLimit);
  Bytes data(4096);
  writes.add({.kind = IoKind::kWrite,
              .offset = FileOffset(kDiskSize.raw() - data.size()),
              .length = data.size(),
              .data = data});
  const auto saved = writes.save();
  ASSERT_TRUE(saved.has_value());
  UnflushedWrites loaded(kLimit);
  EXPECT_TRUE(loaded.load(*saved, kDiskSize));
  // A smaller disk.
  EXPECT_EQ(loaded.load(*saved, ByteCount(kDiskSize.raw() - 1)).error().kind,
            ErrorKind::kInvalidArgument);
  // Every prefix, and every damaged word of the record.
  constexpr std::size_t kWords = 5;
  for (const off_t size : {off_t{4135}, off_t{40}, off_t{39}, off_t{1}}) {
    const auto file = writes.save();
    ASSERT_EQ(::ftruncate(file->get(), size), 0);
    EXPECT_FALSE(loaded.load(*file, kDiskSize)) << size;
  }
  for (std::size_t word = 0; word < kWords; ++word) {
    const auto file = writes.save();
    const std::uint64_t damage = ~std::uint64_t{0};
    ASSERT_EQ(::pwrite(file->get(), &damage, sizeof damage, static_cast<off_t>(word * 8)), 8);
    EXPECT_FALSE(loaded.load(*file, kDiskSize)) << word;
  }
}

TEST(UnflushedWrites, CopiesInReusedMemoryAreThoseOfTheirWrites) {
  UnflushedWrites writes(ByteCount(std::uint64_t{1} << 20));
  for (const std::size_t length : {65536U, 40000U, 131072U, 65536U, 4096U, 65536U}) {
    std::vector<std::byte> bytes(length, static_cast<std::byte>(length >> 8));
    for (std::uint64_t i = 0; i < 3; ++i) {
      writes.add({.kind = IoKind::kWrite,
                  .offset = FileOffset(i * length),
                  .length = length,
                  .data = bytes});
    }
    auto at = writes.begin();
    const auto batch = writes.next_batch(at, kRangeBlock);
    ASSERT_EQ(batch.size(), 3U);
    for (const auto& work : batch) EXPECT_TRUE(std::ranges::equal(work.data, bytes)) << length;
    writes.drop_before(writes.end());
    EXPECT_TRUE(writes.is_empty());
  }
}

}  // namespace
}  // namespace guestio::disk
