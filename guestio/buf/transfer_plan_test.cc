// SPDX-License-Identifier: MIT
#include "guestio/buf/transfer_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "guestio/base/align.h"
#include "guestio/base/mapping.h"
#include "guestio/buf/bounce_buffer.h"
#include "testing/rounds.h"

namespace guestio::buf {
namespace {

using Policy = TransferPlan::Policy;

constexpr DirectIoLimits kSmall{512, 512, 512, 1024, std::uint64_t{1} << 30};
constexpr DirectIoLimits kLargeBlocks{512, 4096, 4096, 1024, std::uint64_t{1} << 30};

/// Host memory in place of guest memory, and segments of it.
class TransferPlanTest : public testing::Test {
 protected:
  IoBuffer guest(std::size_t offset, std::size_t size) { return {memory_.data() + offset, size}; }
  static std::size_t total(const std::vector<IoBuffer>& segments) {
    std::size_t sum = 0;
    for (const IoBuffer& segment : segments) sum += segment.length;
    return sum;
  }
  TransferPlan plan(const std::vector<IoBuffer>& segments, std::uint64_t offset,
                    const DirectIoLimits& limits, std::size_t max_bounce = std::size_t{1} << 20) {
    return TransferPlan({SegmentCursor(segments), FileOffset(offset), total(segments)}, limits,
                        {.max_bounce = max_bounce});
  }

  Mapping memory_ = std::move(*Mapping::anonymous(std::size_t{1} << 21));
};

TEST_F(TransferPlanTest, AlignedSegmentsGoDirect) {
  const std::vector segments = {guest(0, 4096), guest(8192, 512), guest(65536, 131072)};
  const TransferPlan result = plan(segments, 1 << 20, kSmall);
  EXPECT_EQ(result.bounced_bytes(), 0u);
  ASSERT_EQ(result.pieces().size(), 3u);
  EXPECT_EQ(result.pieces()[1].data, guest(8192, 1).data);
  EXPECT_EQ(result.window_bytes(), 4096u + 512 + 131072);
}

TEST_F(TransferPlanTest, OneMisalignedBlockOfALargeRequestBouncesOneBlock) {
  // 128 KiB; the block at 64 KiB is split in two.
  const std::vector segments = {guest(0, 65536 + 100), guest(0x40000, 412),
                                guest(0x50000, 65536 - 512)};
  const TransferPlan result = plan(segments, 0, kSmall);
  EXPECT_EQ(result.window_bytes(), 131072u);
  EXPECT_EQ(result.bounced_bytes(), 512u);
  ASSERT_EQ(result.pieces().size(), 3u);
  EXPECT_TRUE(result.pieces()[1].is_bounced());
}

TEST_F(TransferPlanTest, AMisalignedRunIsBouncedAsAWhole) {
  const TransferPlan result = plan({guest(1, 65536)}, 0, kSmall);
  EXPECT_EQ(result.bounced_bytes(), 65536u);
  EXPECT_EQ(result.pieces().size(), 1u);
}

TEST_F(TransferPlanTest, SegmentsOfOneByteMakeOneBouncedBlock) {
  std::vector<IoBuffer> segments;
  for (std::size_t i = 0; i < 512; ++i) segments.push_back(guest(i * 2, 1));
  const TransferPlan result = plan(segments, 0, kSmall);
  EXPECT_EQ(result.window_bytes(), 512u);
  EXPECT_EQ(result.bounced_bytes(), 512u);
}

TEST_F(TransferPlanTest, AWindowInsideABlockIsWidenedToIt) {
  const TransferPlan result = plan({guest(0, 512)}, 4096 + 1024, kLargeBlocks);
  EXPECT_EQ(result.file_offset(), FileOffset(4096));
  EXPECT_EQ(result.file_bytes(), 4096u);
  EXPECT_EQ(result.head_padding(), 1024u);
  EXPECT_EQ(result.tail_padding(), 2560u);
  EXPECT_EQ(result.window_bytes(), 512u);
}

TEST_F(TransferPlanTest, OnlyTheUnalignedHeadAndTailAreBounced) {
  // 512 bytes before a block boundary, two whole blocks, 1024 bytes after.
  const std::vector segments = {guest(0, 512), guest(8192, 8192), guest(32768, 1024)};
  const TransferPlan result = plan(segments, 4096 - 512, kLargeBlocks);
  EXPECT_EQ(result.file_bytes(), 16384u);
  EXPECT_EQ(result.bounced_bytes(), 8192u);
  ASSERT_EQ(result.pieces().size(), 3u);
  EXPECT_EQ(result.pieces()[1].data, guest(8192, 1).data);
}

TEST_F(TransferPlanTest, WithoutLimitsEverythingGoesDirect) {
  const TransferPlan result = plan({guest(1, 3), guest(77, 509)}, 5, DirectIoLimits{});
  EXPECT_EQ(result.bounced_bytes(), 0u);
  EXPECT_EQ(result.window_bytes(), 512u);
}

TEST_F(TransferPlanTest, ASmallBounceBudgetShortensThePlan) {
  const TransferPlan result = plan({guest(1, 65536)}, 0, kSmall, 8192);
  EXPECT_EQ(result.window_bytes(), 8192u);
  EXPECT_EQ(result.bounced_bytes(), 8192u);
}

TEST_F(TransferPlanTest, ThePolicyBouncesAlignedBlocks) {
  const std::vector segments = {guest(0, 8192)};
  const TransferPlan result({SegmentCursor(segments), FileOffset(0), 8192}, kSmall,
                            {.max_bounce = 1 << 20, .policy = Policy::kBounceAll});
  EXPECT_EQ(result.bounced_bytes(), 8192u);
}

TEST_F(TransferPlanTest, StopsAtTheSegmentAndByteLimits) {
  DirectIoLimits limits = kSmall;
  limits.max_segments = 8;
  std::vector<IoBuffer> segments;
  for (std::size_t i = 0; i < 20; ++i) segments.push_back(guest(i * 8192, 512));
  EXPECT_EQ(plan(segments, 0, limits).pieces().size(), 8u);
  limits.max_bytes = 1024;
  EXPECT_EQ(plan(segments, 0, limits).window_bytes(), 1024u);
}

TEST_F(TransferPlanTest, Fault20OneMisalignedBlockCostsTheCopyOfOneBlock) {
  // 128 KiB: 512 bytes in the middle are misaligned by 1 byte.
  const std::vector segments = {guest(0, 65536), guest(0x20001, 512), guest(0x40000, 65536 - 512)};
  const TransferPlan result = plan(segments, 0, kSmall);
  EXPECT_EQ(result.window_bytes(), 131072u);
  EXPECT_EQ(result.bounced_bytes(), 512u);
  EXPECT_EQ(result.bounce_size(), 512u);
  EXPECT_EQ(result.bounced()[BounceReason::kMisaligned], 512u);
}

TEST_F(TransferPlanTest, Fault20SegmentBoundariesOffPageBoundariesGoDirect) {
  const std::vector segments = {guest(512, 1024), guest(0x10200, 2560), guest(0x20e00, 512)};
  EXPECT_EQ(plan(segments, 0, kSmall).bounced_bytes(), 0u);
}

TEST_F(TransferPlanTest, Fault21SegmentsAboveTheLimitAreSplit) {
  std::vector<IoBuffer> segments;
  for (std::size_t i = 0; i < 2048; ++i) segments.push_back(guest(i * 1024, 512));
  const TransferPlan first = plan(segments, 0, kSmall);
  EXPECT_EQ(first.pieces().size(), 1024u);
  EXPECT_EQ(first.window_bytes(), 1024u * 512);
  EXPECT_EQ(first.segments({}).size(), 1024u);
  SegmentCursor cursor(segments);
  cursor.advance(first.window_bytes());
  const TransferPlan second({cursor, FileOffset(first.window_bytes()), std::uint64_t{1024} * 512},
                            kSmall, {.max_bounce = 4096});
  EXPECT_EQ(second.pieces().size(), 1024u);
  EXPECT_EQ(second.pieces()[0].data, segments[1024].data);
}

TEST_F(TransferPlanTest, Fault19AShortReadShowsTheGuestOnlyItsBytes) {
  std::memset(memory_.data(), 0x11, 16384);
  const std::vector segments = {guest(1, 8192)};
  const TransferPlan result = plan(segments, 512, kSmall);
  const auto bounce = BounceBuffer::allocate(result.bounce_size());
  std::memset(bounce->bytes().data(), 0x66, bounce->size());  // of another request
  std::memset(bounce->bytes().data(), 0x22, 1000);            // what arrived
  ASSERT_TRUE(result.copy_out(SegmentCursor(segments), bounce->bytes(), 1000));
  EXPECT_EQ(memory_.data()[1], std::byte{0x22});
  EXPECT_EQ(memory_.data()[1000], std::byte{0x22});
  EXPECT_EQ(memory_.data()[1001], std::byte{0x11});
  EXPECT_EQ(memory_.data()[8192], std::byte{0x11});
}

TEST_F(TransferPlanTest, Fault19AShortReadInsideABlockShowsOnlyItsBytes) {
  std::memset(memory_.data(), 0x11, 16384);
  const std::vector segments = {guest(1, 8192)};
  const TransferPlan result = plan(segments, 1024, kLargeBlocks);
  ASSERT_EQ(result.head_padding(), 1024u);
  const auto bounce = BounceBuffer::allocate(result.bounce_size());
  std::memset(bounce->bytes().data(), 0x66, bounce->size());  // of another request
  std::memset(bounce->bytes().data(), 0x33, 1024);            // padding
  std::memset(bounce->bytes().data() + 1024, 0x22, 3000 - 1024);
  ASSERT_TRUE(result.copy_out(SegmentCursor(segments), bounce->bytes(), 3000));
  std::vector<std::byte> expected(8192, std::byte{0x11});
  std::fill_n(expected.begin(), 3000 - 1024, std::byte{0x22});
  EXPECT_EQ(std::memcmp(memory_.data() + 1, expected.data(), expected.size()), 0);
}

TEST_F(TransferPlanTest, Fault19PaddingNeverReachesTheGuest) {
  std::memset(memory_.data(), 0x11, 8192);
  const std::vector segments = {guest(0, 512)};
  const TransferPlan result = plan(segments, 1024, kLargeBlocks);
  const auto bounce = BounceBuffer::allocate(result.bounce_size());
  std::memset(bounce->bytes().data(), 0x66, bounce->size());
  std::memset(bounce->bytes().data() + 1024, 0x22, 512);
  ASSERT_TRUE(result.copy_out(SegmentCursor(segments), bounce->bytes(), 4096));
  EXPECT_EQ(memory_.data()[0], std::byte{0x22});
  EXPECT_EQ(memory_.data()[511], std::byte{0x22});
  EXPECT_EQ(memory_.data()[512], std::byte{0x11});
  ASSERT_TRUE(result.copy_out(SegmentCursor(segments), bounce->bytes(), 1000)) << "only padding";
}

TEST_F(TransferPlanTest, CountsBouncedBytesByReason) {
  // Head padding, an aligned block, a misaligned one, a segment boundary, tail padding.
  const std::vector segments = {guest(0, 512),       guest(4096, 4096),
                                guest(0x4001, 4096), guest(0x8000, 2048),
                                guest(0xa000, 2048), guest(0xc000, 4096 + 512)};
  const TransferPlan result = plan(segments, 4096 - 512, kLargeBlocks);
  EXPECT_EQ(result.bounced()[BounceReason::kPadding], 8192u);
  EXPECT_EQ(result.bounced()[BounceReason::kMisaligned], 4096u);
  EXPECT_EQ(result.bounced()[BounceReason::kSegmentBoundary], 4096u);
  EXPECT_EQ(result.bounced()[BounceReason::kPolicy], 0u);
  EXPECT_EQ(result.bounced_bytes(), 4u * 4096);
  BounceCounters counters;
  result.count(counters);
  result.count(counters);
  EXPECT_EQ(counters.plans, 2u);
  EXPECT_EQ(counters.direct_bytes, 2u * 8192);
  EXPECT_EQ(counters.bounced.total(), 2u * 4 * 4096);
}

TEST_F(TransferPlanTest, ManyPiecesAreBouncedAsOne) {
  std::vector<IoBuffer> segments;
  for (std::size_t i = 0; i < 16; ++i) segments.push_back(guest(i * 8192 + i % 2, 512));
  const auto made = [&](std::size_t max_pieces, std::size_t max_bounce) {
    return TransferPlan({SegmentCursor(segments), FileOffset(0), std::uint64_t{16} * 512}, kSmall,
                        {.max_bounce = max_bounce, .max_pieces = max_pieces});
  };
  EXPECT_EQ(made(16, 1 << 20).bounced_bytes(), 8u * 512);
  const TransferPlan whole = made(15, 1 << 20);
  EXPECT_EQ(whole.pieces().size(), 1u);
  EXPECT_EQ(whole.window_bytes(), 16u * 512);
  EXPECT_EQ(whole.bounced()[BounceReason::kManyPieces], 16u * 512);
  EXPECT_EQ(made(15, std::size_t{15} * 512).bounced()[BounceReason::kManyPieces], 0u)
      << "not enough bounce memory for the whole";
}

TEST_F(TransferPlanTest, ManyDirectPiecesStayDirect) {
  std::vector<IoBuffer> segments;
  for (std::size_t i = 0; i < 16; ++i) segments.push_back(guest(i * 8192, 512));
  const TransferPlan result({SegmentCursor(segments), FileOffset(0), std::uint64_t{16} * 512},
                            kSmall, {.max_bounce = 1 << 20, .max_pieces = 1});
  EXPECT_EQ(result.bounced_bytes(), 0u);
}

TEST_F(TransferPlanTest, BouncedPiecesHaveTheAlignmentOfTheFile) {
  constexpr DirectIoLimits kWide{16384, 512, 512, 1024, std::uint64_t{1} << 30};
  const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
  const std::size_t start = align_up(address, 16384u) - address;
  const std::vector segments = {guest(start + 512, 512), guest(start + 16384, 512),
                                guest(start + 512, 1024)};
  const TransferPlan result = plan(segments, 0, kWide);
  EXPECT_EQ(result.bounced_bytes(), 1536u);
  EXPECT_EQ(result.bounce_size(), 16384u + 1024);
  EXPECT_EQ(result.bounce_alignment(), 16384u);
  const auto bounce = BounceBuffer::allocate(result.bounce_size(), result.bounce_alignment());
  for (const IoBuffer& segment : result.segments(bounce->bytes())) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(segment.data) % 16384, 0u);
  }
}

TEST_F(TransferPlanTest, OneBlockPerCallSufficesForAWidenedWindow) {
  DirectIoLimits limits = kLargeBlocks;
  limits.max_bytes = 4096;
  limits.max_segments = 1;
  const TransferPlan result = plan({guest(0, 8192)}, 512, limits, 4096);
  EXPECT_EQ(result.window_bytes(), 4096u - 512);
  EXPECT_EQ(result.file_bytes(), 4096u);
}

/// Transfers every window by its plans between guest segments and a model file, as a disk does.
void move_window(const std::vector<IoBuffer>& segments, std::uint64_t offset, std::uint64_t length,
                 const DirectIoLimits& limits, std::vector<std::byte>& file, bool is_write) {
  SegmentCursor cursor(segments);
  while (length != 0) {
    const TransferPlan plan({cursor, FileOffset(offset), length}, limits, {.max_bounce = 16384});
    ASSERT_EQ(plan.file_offset().raw() % limits.offset_alignment, 0u);
    ASSERT_EQ(plan.file_bytes() % limits.length_alignment, 0u);
    ASSERT_EQ(plan.window_bytes() + plan.head_padding() + plan.tail_padding(), plan.file_bytes());
    const auto bounce = BounceBuffer::allocate(plan.bounce_size(), plan.bounce_alignment());
    ASSERT_TRUE(bounce.has_value());
    const auto io = plan.segments(bounce->bytes());
    ASSERT_LE(io.size(), limits.max_segments);
    if (is_write && plan.has_padding()) {
      // Fill from the file, as read-modify-write does.
      std::size_t at = plan.file_offset().raw();
      for (const IoBuffer& piece : io) {
        for (std::size_t i = 0; i < piece.length; ++i, ++at) {
          const bool is_padding = at < offset || at >= offset + plan.window_bytes();
          if (is_padding) piece.data[i] = file[at];
        }
      }
    }
    if (is_write) {
      ASSERT_TRUE(plan.copy_in(cursor, bounce->bytes()));
    }
    std::size_t at = plan.file_offset().raw();
    for (const IoBuffer& piece : io) {
      ASSERT_EQ(reinterpret_cast<std::uintptr_t>(piece.data) % limits.memory_alignment, 0u);
      ASSERT_EQ(piece.length % limits.length_alignment, 0u);
      if (is_write) {
        std::memcpy(&file[at], piece.data, piece.length);
      } else {
        std::memcpy(piece.data, &file[at], piece.length);
      }
      at += piece.length;
    }
    if (!is_write) {
      ASSERT_TRUE(plan.copy_out(cursor, bounce->bytes(), plan.file_bytes()));
    }
    cursor.advance(plan.window_bytes());
    offset += plan.window_bytes();
    length -= plan.window_bytes();
  }
}

TEST_F(TransferPlanTest, RandomWindowsTransferExactlyTheirBytes) {
  std::mt19937_64 random(7);
  std::vector<std::byte> file(1 << 18);
  for (auto& byte : file) byte = static_cast<std::byte>(random());
  for (int round = 0; round < single_threaded_rounds(3000); ++round) {
    DirectIoLimits limits;
    limits.memory_alignment = 1U << (random() % 13);
    limits.offset_alignment = 512U << (random() % 4);
    limits.length_alignment = limits.offset_alignment;
    limits.max_segments = 4 + static_cast<std::uint32_t>(random() % 60);
    limits.max_bytes = 4096U << (random() % 6);
    std::vector<IoBuffer> segments;
    std::size_t at = random() % 8192;
    std::uint64_t length = 0;
    const std::size_t count = 1 + random() % 20;
    for (std::size_t i = 0; i < count; ++i) {
      std::size_t size = 1 + random() % 5000;
      if (random() % 2 == 0) size = 512 * (1 + random() % 16);
      if (random() % 2 == 0) at = align_up(at, std::size_t{512});
      segments.push_back(guest(at, size));
      at += size + random() % 3000;
      length += size;
    }
    // Whole sectors, as in guest requests: the last segment takes the rest.
    const std::size_t rest = (512 - length % 512) % 512;
    if (rest != 0) segments.push_back(guest(at, rest));
    length += rest;
    const std::uint64_t offset = 512 * (random() % 64);

    const bool is_write = random() % 2 == 0;
    for (const IoBuffer& segment : segments) {
      for (std::size_t i = 0; i < segment.length; ++i) {
        segment.data[i] = static_cast<std::byte>(random());
      }
    }
    std::vector<std::byte> expected = file;
    if (is_write) {
      std::size_t to = offset;
      for (const IoBuffer& segment : segments) {
        std::memcpy(&expected[to], segment.data, segment.length);
        to += segment.length;
      }
    }
    move_window(segments, offset, length, limits, file, is_write);
    if (HasFatalFailure()) FAIL() << "round " << round;
    ASSERT_EQ(file, expected) << "round " << round;
    std::size_t from = offset;
    for (const IoBuffer& segment : segments) {
      ASSERT_EQ(std::memcmp(&file[from], segment.data, segment.length), 0) << "round " << round;
      from += segment.length;
    }
  }
}

}  // namespace
}  // namespace guestio::buf
