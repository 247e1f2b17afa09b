// SPDX-License-Identifier: MIT
#include "guestio/disk/file/file_channel.h"

#include <gtest/gtest.h>

#include <deque>
#include <functional>

#include "guestio/disk/file/file_disk.h"
#include "testing/temporary.h"

namespace guestio::disk {
namespace {

struct CountedIo final : Io {
  void on_done(Result<> result) noexcept override {
    EXPECT_TRUE(result) << result.error().to_string();
    ++times_done;
    if (then) std::exchange(then, nullptr)();
  }
  int times_done = 0;
  std::function<void()> then;
};

class FileChannelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto disk = FileDisk::open({.path = path_});
    ASSERT_TRUE(disk) << disk.error().to_string();
    disk_ = std::move(*disk);
    auto channel = disk_->open_channel(*loop_, ByteCount(std::uint64_t{1} << 20));
    ASSERT_TRUE(channel);
    channel_ = std::move(*channel);
    loop_->run_until_idle();
  }
  std::uint64_t operations() const { return loop_->statistics().operations; }
  void start_flush(CountedIo& io) {
    io.kind = IoKind::kFlush;
    channel_->start(io);
  }

  testing::TemporaryDirectory folder_;
  std::string path_ = folder_.make_image("disk.img", std::uint64_t{4} << 20);
  std::unique_ptr<uring::Loop> loop_ = std::move(*uring::Loop::create());
  std::unique_ptr<FileDisk> disk_;
  std::unique_ptr<Channel> channel_;
};

TEST_F(FileChannelTest, ConcurrentFlushesAreCoalescedToTwo) {
  std::deque<CountedIo> flushes(64);
  const auto before = operations();
  for (CountedIo& flush : flushes) start_flush(flush);
  loop_->run_until_idle();
  for (const CountedIo& flush : flushes) EXPECT_EQ(flush.times_done, 1);
  // The first starts before the others arrive; the others share the second.
  EXPECT_EQ(operations() - before, 2U);
}

TEST_F(FileChannelTest, AFlushInFlightDoesNotCoverALaterFlush) {
  CountedIo first;
  CountedIo second;
  const auto before = operations();
  start_flush(first);
  start_flush(second);
  int second_done_by_first = -1;
  first.then = [&] { second_done_by_first = second.times_done; };
  loop_->run_until_idle();
  EXPECT_EQ(second_done_by_first, 0);
  EXPECT_EQ(second.times_done, 1);
  EXPECT_EQ(operations() - before, 2U);
}

TEST_F(FileChannelTest, SequentialFlushesAreNotCoalesced) {
  CountedIo first;
  CountedIo second;
  const auto before = operations();
  first.then = [&] { start_flush(second); };
  start_flush(first);
  loop_->run_until_idle();
  EXPECT_EQ(second.times_done, 1);
  EXPECT_EQ(operations() - before, 2U);
}

}  // namespace
}  // namespace guestio::disk
