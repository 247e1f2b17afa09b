// SPDX-License-Identifier: MIT
// Requests failed by the disk, with each FailurePolicy.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "guestio/blk/block_queue.h"
#include "guestio/blk/test/hand_made_queue.h"
#include "guestio/disk/delay_channel.h"
#include "guestio/disk/fault_channel.h"
#include "guestio/disk/ram_channel.h"
#include "testing/manual_timer.h"

namespace guestio::blk {
namespace {

namespace vblk = virtio::blk;
using disk::Fault;
using std::chrono::milliseconds;
using vblk::RequestType;
using virtio::Direction;

constexpr Fault kNoSpace{Error::host(ENOSPC, "write the image")};
constexpr Fault kBroken{Error::host(EIO, "read the image")};
constexpr std::byte kOk{0};
constexpr std::byte kIoError{1};
constexpr std::byte kUnanswered{0xff};

class BlockFailureTest : public ::testing::Test {
 protected:
  void start(OnError on_error) {
    auto ram = *disk::RamChannel::create(ByteCount(1 << 20));
    ram_ = ram.get();
    device_.emplace(BlockDeviceOptions{.disk = ram->info(), .serial = "s"});
    auto faulty = std::make_unique<disk::FaultChannel>(
        std::move(ram), [this](const disk::Io& io) { return choose(io); });
    channel_ = faulty.get();
    auto timer = std::make_unique<testing::ManualTimer>();
    timer_ = timer.get();
    blk_ = std::make_unique<BlockQueue>(
        *device_, std::move(faulty), 8,
        FailurePolicy{.on_error = on_error, .timer = std::move(timer)});
  }
  std::optional<Fault> choose(const disk::Io& io) {
    ++attempts_;
    if (!fault_ || (only_at_ && io.offset != *only_at_)) return std::nullopt;
    return fault_;
  }

  /// One request with data at kData: 4096 bytes, or `ranges`. Returns the address of its status.
  Gpa send(RequestType type, std::uint64_t sector = 0,
           std::span<const vblk::RangeSegment> ranges = {}) {
    const Gpa header(64 * places_);
    const Gpa status(64 * places_++ + 32);
    const vblk::RequestHeader request{type, 0, sector};
    EXPECT_TRUE(memory_.write(header, std::as_bytes(std::span(&request, 1))));
    EXPECT_TRUE(memory_.write(status, std::span(&kUnanswered, 1)));
    std::vector<test::HandMadeQueue::Extent> chain = {{header, 16, Direction::kReadable}};
    if (!ranges.empty()) {
      EXPECT_TRUE(memory_.write(kData, std::as_bytes(ranges)));
      const auto bytes = static_cast<std::uint32_t>(ranges.size_bytes());
      chain.push_back({kData, bytes, Direction::kReadable});
    } else if (type != RequestType::kFlush) {
      const bool reads = type == RequestType::kIn;
      chain.push_back({kData, 4096, reads ? Direction::kWritable : Direction::kReadable});
    }
    chain.push_back({status, 1, Direction::kWritable});
    queue_.add(std::move(chain));
    blk_->process(queue_);
    return status;
  }
  std::byte at(Gpa status) { return *memory_.load<std::byte>(status); }

  static constexpr Gpa kData{65536};
  mem::GuestMemory memory_ = *mem::GuestMemory::allocate(ByteCount(1 << 20));
  std::uint64_t places_ = 0;
  std::optional<Fault> fault_;
  std::optional<FileOffset> only_at_;
  int attempts_ = 0;
  disk::RamChannel* ram_ = nullptr;
  disk::FaultChannel* channel_ = nullptr;
  testing::ManualTimer* timer_ = nullptr;
  std::optional<BlockDevice> device_;
  std::unique_ptr<BlockQueue> blk_;
  test::HandMadeQueue queue_{memory_};
};

TEST_F(BlockFailureTest, Rule36AShortTransferIsNeverSuccess) {
  start(OnError::kReport);
  std::ranges::fill(ram_->bytes(), std::byte{0xaa});
  for (const std::uint64_t moved : {std::uint64_t{0}, std::uint64_t{512}, std::uint64_t{3584}}) {
    fault_ = Fault::short_transfer(moved, 4096);
    const Gpa read = send(RequestType::kIn);
    EXPECT_EQ(at(read), kIoError) << moved;
    EXPECT_EQ(queue_.used.back().written, 1u) << "no more than the status is promised";
    EXPECT_EQ(at(send(RequestType::kOut)), kIoError) << moved;
  }
  fault_.reset();
  EXPECT_EQ(at(send(RequestType::kIn)), kOk);
}

TEST_F(BlockFailureTest, Rule37AnyFailureIsReportedAndTheNextRequestServed) {
  start(OnError::kReport);
  const std::array range = {vblk::RangeSegment{8, 8, 0}};
  for (const int error : {EIO, ENOSPC, EFBIG, EDQUOT, EROFS, ETIMEDOUT, ENODEV, ENXIO}) {
    fault_ = Fault{Error::host(error, "a disk that fails")};
    EXPECT_EQ(at(send(RequestType::kIn)), kIoError) << error;
    EXPECT_EQ(at(send(RequestType::kOut)), kIoError) << error;
    EXPECT_EQ(at(send(RequestType::kFlush)), kIoError) << error;
    EXPECT_EQ(at(send(RequestType::kDiscard, 0, range)), kIoError) << error;
    EXPECT_EQ(at(send(RequestType::kWriteZeroes, 0, range)), kIoError) << error;
    fault_.reset();
    EXPECT_EQ(at(send(RequestType::kOut)), kOk) << error;
  }
}

TEST_F(BlockFailureTest, ARemovedDeviceFailsEverythingUntilItsReinsertion) {
  start(OnError::kReport);
  channel_->remove();
  EXPECT_EQ(at(send(RequestType::kIn)), kIoError);
  EXPECT_EQ(at(send(RequestType::kFlush)), kIoError);
  channel_->reinsert();
  EXPECT_EQ(at(send(RequestType::kIn)), kOk);
}

TEST_F(BlockFailureTest, RetryBacksOffAndReportsInTheEnd) {
  start(OnError::kRetry);
  fault_ = kBroken;
  const Gpa status = send(RequestType::kIn);
  for (std::uint32_t i = 0; i < FailurePolicy::kMaxRetries; ++i) {
    ASSERT_EQ(at(status), kUnanswered);
    ASSERT_EQ(blk_->held(), 1u);
    ASSERT_TRUE(timer_->fire());
  }
  EXPECT_EQ(at(status), kIoError);
  EXPECT_EQ(blk_->held(), 0u);
  EXPECT_FALSE(timer_->fire());
  EXPECT_TRUE(std::ranges::is_sorted(timer_->durations));
  EXPECT_EQ(timer_->durations.front(), milliseconds(10));
  EXPECT_EQ(timer_->durations.back(), milliseconds(1000));
}

TEST_F(BlockFailureTest, ASuccessfulRetryIsASuccess) {
  start(OnError::kRetry);
  fault_ = kBroken;
  const std::array<std::byte, 4096> data = {std::byte{1}, std::byte{2}};
  ASSERT_TRUE(memory_.write(kData, data));
  const Gpa status = send(RequestType::kOut, 8);
  fault_.reset();
  ASSERT_TRUE(timer_->fire());
  EXPECT_EQ(at(status), kOk);
  EXPECT_EQ(std::memcmp(ram_->bytes().data() + 4096, data.data(), data.size()), 0);
}

TEST_F(BlockFailureTest, HoldRetriesWithoutLimitAndServesOtherRequests) {
  start(OnError::kHold);
  fault_ = kNoSpace;
  only_at_ = FileOffset(0);
  const Gpa held = send(RequestType::kOut, 0);
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(timer_->fire());
  EXPECT_EQ(at(held), kUnanswered);
  EXPECT_EQ(at(send(RequestType::kOut, 8)), kOk);
  fault_.reset();
  ASSERT_TRUE(timer_->fire());
  EXPECT_EQ(at(held), kOk);
}

TEST_F(BlockFailureTest, RetryHeldRetriesAtOnce) {
  start(OnError::kHold);
  fault_ = kNoSpace;
  const Gpa first = send(RequestType::kOut, 0);
  const Gpa second = send(RequestType::kOut, 8);
  blk_->retry_held();
  EXPECT_EQ(attempts_, 4);
  EXPECT_EQ(blk_->held(), 2u) << "they wait again when the disk fails again";
  fault_.reset();
  blk_->retry_held();
  EXPECT_EQ(at(first), kOk);
  EXPECT_EQ(at(second), kOk);
}

TEST_F(BlockFailureTest, FailHeldReportsWithoutARetry) {
  start(OnError::kHold);
  fault_ = kNoSpace;
  const Gpa status = send(RequestType::kOut);
  blk_->fail_held();
  EXPECT_EQ(at(status), kIoError);
  EXPECT_EQ(attempts_, 1);
  const Gpa next = send(RequestType::kOut);
  EXPECT_EQ(at(next), kUnanswered) << "only what was held then";
  blk_->fail_held();
}

TEST_F(BlockFailureTest, DrainRetriesOnceAndDoesNotWait) {
  start(OnError::kHold);
  fault_ = kNoSpace;
  const Gpa lost = send(RequestType::kOut, 0);
  const Gpa saved = send(RequestType::kOut, 8);
  only_at_ = FileOffset(0);
  blk_->drain();
  EXPECT_EQ(at(lost), kIoError);
  EXPECT_EQ(at(saved), kOk);
  EXPECT_EQ(attempts_, 4);
  const Gpa next = send(RequestType::kOut, 0);
  EXPECT_EQ(at(next), kUnanswered) << "the next queue holds again";
  blk_->fail_held();
}

TEST_F(BlockFailureTest, HeldRequestsAreParkedByQuiesceAndRetriedByResume) {
  start(OnError::kHold);
  fault_ = kNoSpace;
  const Gpa before = send(RequestType::kOut, 0);
  blk_->quiesce();
  EXPECT_EQ(blk_->held_chains(), 1u);
  const Gpa meanwhile = send(RequestType::kOut, 8);
  EXPECT_EQ(blk_->held_chains(), 2u) << "what the disk fails now waits as well";
  EXPECT_EQ(attempts_, 2) << "nothing is tried";
  fault_.reset();
  blk_->resume();
  EXPECT_EQ(at(before), kOk);
  EXPECT_EQ(at(meanwhile), kOk);
  EXPECT_EQ(blk_->held(), 0u);
}

TEST_F(BlockFailureTest, AnAbandonedQueueReturnsNoHeldChains) {
  start(OnError::kHold);
  fault_ = kNoSpace;
  const Gpa held = send(RequestType::kOut);
  blk_->quiesce();
  blk_->abandon();
  EXPECT_EQ(at(held), kUnanswered);
  EXPECT_TRUE(queue_.used.empty());
  EXPECT_EQ(queue_.left, std::vector<std::uint16_t>{0});
  EXPECT_EQ(blk_->held(), 0u);
  fault_.reset();
  EXPECT_EQ(at(send(RequestType::kOut)), kOk) << "the next queue is served";
}

TEST_F(BlockFailureTest, ErrorsOfTheGuestAreNeverHeld) {
  start(OnError::kHold);
  EXPECT_EQ(at(send(RequestType::kIn, 1 << 20)), kIoError) << "past the end";
  EXPECT_EQ(at(send(RequestType{1000})), std::byte{2}) << "unknown";
  fault_ = Fault{Error::make(ErrorKind::kMemoryFault, "guest memory of a request")};
  EXPECT_EQ(at(send(RequestType::kIn)), kIoError) << "its memory";
  fault_ = Fault{Error::make(ErrorKind::kDataLost, "flush the image")};
  EXPECT_EQ(at(send(RequestType::kFlush)), kIoError) << "what no attempt brings back";
}

TEST_F(BlockFailureTest, EnospcHoldsOnlyRequestsOutOfSpace) {
  start(OnError::kEnospc);
  fault_ = kBroken;
  EXPECT_EQ(at(send(RequestType::kIn)), kIoError);
  fault_ = kNoSpace;
  const Gpa held = send(RequestType::kOut);
  EXPECT_EQ(at(held), kUnanswered);
  fault_ = kBroken;
  ASSERT_TRUE(timer_->fire());
  EXPECT_EQ(at(held), kIoError) << "another failure is reported";
}

TEST_F(BlockFailureTest, OnlyTheFailedRangeOfSeveralIsRetried) {
  start(OnError::kHold);
  std::ranges::fill(ram_->bytes(), std::byte{0xaa});
  const std::array ranges = {vblk::RangeSegment{0, 8, 0}, vblk::RangeSegment{8, 8, 0},
                             vblk::RangeSegment{16, 8, 0}};
  fault_ = kNoSpace;
  only_at_ = FileOffset(4096);
  const Gpa status = send(RequestType::kWriteZeroes, 0, ranges);
  EXPECT_EQ(at(status), kUnanswered);
  EXPECT_EQ(attempts_, 2);
  fault_.reset();
  ASSERT_TRUE(timer_->fire());
  EXPECT_EQ(at(status), kOk);
  EXPECT_EQ(attempts_, 4);
  EXPECT_TRUE(std::ranges::all_of(ram_->bytes().first(std::size_t{24} * 512),
                                  [](std::byte byte) { return byte == std::byte{0}; }));
}

TEST(DelayChannel, DelayedRequestsAreOvertaken) {
  testing::ManualTimer timer;
  auto ram = *disk::RamChannel::create(ByteCount(1 << 20));
  const BlockDevice device({.disk = ram->info(), .serial = "s"});
  bool is_slow = true;
  BlockQueue blk(
      device,
      std::make_unique<disk::DelayChannel>(
          std::move(ram), timer,
          [&](const disk::Io&) { return milliseconds(std::exchange(is_slow, false) ? 5 : 0); }),
      8);
  const auto memory = *mem::GuestMemory::allocate(ByteCount(65536));
  const vblk::RequestHeader flush{RequestType::kFlush, 0, 0};
  ASSERT_TRUE(memory.write(Gpa(0), std::as_bytes(std::span(&flush, 1))));
  test::HandMadeQueue queue(memory);
  for (int i = 0; i < 2; ++i) {
    queue.add({{Gpa(0), 16, Direction::kReadable}, {Gpa(64), 1, Direction::kWritable}});
  }
  blk.process(queue);
  ASSERT_EQ(queue.used.size(), 1u);
  EXPECT_EQ(queue.used[0].head, 1u);
  ASSERT_TRUE(timer.fire());
  ASSERT_EQ(queue.used.size(), 2u);
  EXPECT_EQ(timer.durations.at(0), milliseconds(5));
}

}  // namespace
}  // namespace guestio::blk
