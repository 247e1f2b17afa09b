// SPDX-License-Identifier: MIT
// Many requests from the driver's ring to the file and back allocate nothing once the queue is
// warm. A program of its own, because it replaces operator new.
#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <future>
#include <optional>
#include <thread>

#include "guestio/blk/block_device.h"
#include "guestio/blk/block_queue.h"
#include "guestio/disk/file/file_disk.h"
#include "guestio/task/frame_pool.h"
#include "guestio/vhost/ring/queue_thread.h"
#include "guestio/virtio/blk_layout.h"
#include "guestio/virtio/ring_for_test.h"
#include "guestio/virtio/split_driver_ring.h"
#include "testing/count_allocations.h"
#include "testing/temporary.h"

namespace guestio::tests {
namespace {

namespace vblk = virtio::blk;
using virtio::Direction;
using Segment = virtio::DriverSegment;

constexpr std::uint64_t kDiskBytes = std::uint64_t{16} << 20;
constexpr std::uint32_t kBytes = 4096;
constexpr std::uint16_t kDepth = 32;

/// Kind and layout of the requests.
struct Load {
  const char* name;
  bool is_in_memory;          ///< the file; else on a real file system
  std::uint64_t data_offset;  ///< from a page boundary; all but 0 is bounced
  std::uint64_t requests;
};

class RequestAllocationTest : public ::testing::TestWithParam<Load> {
 protected:
  void SetUp() override {
    if (!task::FramePool::keeps_blocks()) GTEST_SKIP() << "this build pools no frames";
    auto disk =
        disk::FileDisk::open({.path = GetParam().is_in_memory ? memory_file_.path() : image_});
    ASSERT_TRUE(disk) << disk.error().to_string();
    disk_ = std::move(*disk);
    device_.emplace(blk::BlockDeviceOptions{.disk = disk_->info(), .queues = 1, .serial = "x"});
    thread_ = std::move(*vhost::QueueThread::start(
        {.name = "test", .polling = {vhost::PollPolicy::Kind::kAlways, {}}}));
    queue_ = std::move(*vhost::Queue::create(*thread_, 0, [this](uring::Loop& loop, std::uint16_t) {
      auto channel = disk_->open_channel(loop, ByteCount(std::uint64_t{8} << 20));
      return Result<std::unique_ptr<virtio::QueueHandler>>(
          std::make_unique<blk::BlockQueue>(*device_, std::move(*channel)));
    }));
    driver_.emplace(std::move(*virtio::SplitDriverRing::create(ring_.driver(), 0)));
    thread_->call([this] {
      queue_->vring() = std::move(*vhost::Vring::create(
          thread_->loop(), thread_->poller(), queue_->handler(),
          {.ring = ring_.device(), .memory = ring_.memory(), .is_enabled = true}));
      queue_->vring()->start();
    });
  }
  void TearDown() override {
    if (!queue_) return;
    std::promise<void> stopped;
    auto done = stopped.get_future();
    thread_->call([&] {
      queue_->vring()->stop([&](std::uint32_t) {
        thread_->loop().post([&] {
          queue_->vring().reset();
          stopped.set_value();
        });
      });
    });
    done.wait();
  }

  /// The heap allocations of the queue's thread so far.
  std::uint64_t count() {
    std::uint64_t now = 0;
    thread_->call([&] { now = testing::allocations(); });
    return now;
  }

  void add(std::uint64_t number) {
    // Slots of guest memory follow the ring's descriptors: both are free at the same time.
    const std::uint64_t slot = free_slots_.back();
    free_slots_.pop_back();
    const Gpa header = virtio::RingForTest::kData.plus_unchecked(slot * 64);
    const Gpa status = header.plus_unchecked(32);
    const Gpa data = virtio::RingForTest::kData.plus_unchecked(65536 + slot * 2 * kBytes +
                                                               GetParam().data_offset);
    vblk::RequestHeader request{};
    const bool is_write = number % 2 == 0;
    request.type = is_write ? vblk::RequestType::kOut : vblk::RequestType::kIn;
    request.sector = number * 37 % (kDiskBytes / kBytes) * (kBytes / 512);
    std::memcpy(ring_.at(header), &request, sizeof request);
    *ring_.at(status) = std::byte{0xff};
    const std::array segments = {
        Segment{header, sizeof request, Direction::kReadable},
        Segment{data, kBytes, is_write ? Direction::kReadable : Direction::kWritable},
        Segment{status, 1, Direction::kWritable}};
    const auto head = driver_->add(segments);
    ASSERT_TRUE(head);
    slot_of_[*head] = slot;
  }
  void run(std::uint64_t requests) {
    std::uint64_t started = 0;
    std::uint64_t done = 0;
    while (done < requests) {
      while (started < requests && !free_slots_.empty()) add(started++);
      ASSERT_TRUE(driver_->publish());
      while (const auto used = *driver_->reap()) {
        const std::uint64_t slot = slot_of_[used->head];
        ASSERT_EQ(*ring_.at(virtio::RingForTest::kData.plus_unchecked(slot * 64 + 32)),
                  std::byte{0});
        free_slots_.push_back(slot);
        ++done;
      }
      // On a single processor the other thread has to run.
      std::this_thread::yield();
    }
  }

  static std::vector<std::uint64_t> all_slots() {
    std::vector<std::uint64_t> slots;
    for (std::uint64_t i = 0; i < kDepth; ++i) slots.push_back(i);
    return slots;
  }

  testing::TemporaryDirectory folder_;
  std::string image_ = folder_.make_image("disk.img", kDiskBytes);
  testing::MemoryFile memory_file_{kDiskBytes};
  virtio::RingForTest ring_{128};
  std::vector<std::uint64_t> free_slots_ = all_slots();
  std::array<std::uint64_t, 128> slot_of_{};
  std::unique_ptr<disk::FileDisk> disk_;
  std::optional<blk::BlockDevice> device_;
  std::optional<virtio::SplitDriverRing> driver_;
  std::unique_ptr<vhost::QueueThread> thread_;
  std::unique_ptr<vhost::Queue> queue_;
};

INSTANTIATE_TEST_SUITE_P(Loads, RequestAllocationTest,
                         ::testing::Values(Load{"FileInMemory", true, 0, 60'000},
                                           Load{"DirectFile", false, 0, 20'000},
                                           Load{"BouncedOnADirectFile", false, 1, 20'000}),
                         [](const auto& info) { return info.param.name; });

TEST_P(RequestAllocationTest, AWarmQueueAllocatesNothing) {
  run(5'000);
  const std::uint64_t before = count();
  EXPECT_GT(before, 0U) << "the counter counts nothing";
  run(GetParam().requests);
  EXPECT_EQ(count() - before, 0U);
}

}  // namespace
}  // namespace guestio::tests
