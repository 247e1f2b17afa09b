// SPDX-License-Identifier: MIT
// Writes of the device to guest memory are marked for live migration: data written by copy, by the
// kernel and from bounce memory, and the status. The setup is that of guestio-blk.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "guestio/blk/block_queue.h"
#include "guestio/blk/test/hand_made_queue.h"
#include "guestio/disk/file/file_disk.h"
#include "guestio/disk/ram_channel.h"
#include "guestio/uring/loop.h"
#include "testing/temporary.h"

namespace guestio::blk {
namespace {

namespace vblk = virtio::blk;
using test::HandMadeQueue;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using vblk::RequestType;
using virtio::Direction;

constexpr ByteCount kDiskBytes(1 << 20);
constexpr ByteCount kBounce(256 << 10);

/// A disk with a way to wait for it.
class Subject {
 public:
  virtual ~Subject() = default;
  virtual const disk::DiskInfo& info() const = 0;
  virtual std::unique_ptr<disk::Channel> open() = 0;
  virtual void finish() = 0;
};

class RamSubject final : public Subject {
 public:
  const disk::DiskInfo& info() const override { return disk_->info(); }
  std::unique_ptr<disk::Channel> open() override { return std::move(disk_); }
  void finish() override {}

 private:
  std::unique_ptr<disk::RamChannel> disk_ = std::move(*disk::RamChannel::create(kDiskBytes));
};

/// Direct I/O to a file: the kernel writes aligned memory, the rest is bounced.
class FileSubject final : public Subject {
 public:
  const disk::DiskInfo& info() const override { return disk_->info(); }
  std::unique_ptr<disk::Channel> open() override {
    return std::move(*disk_->open_channel(*loop_, kBounce));
  }
  void finish() override { loop_->run_until_idle(); }

 private:
  testing::TemporaryDirectory folder_;
  std::unique_ptr<uring::Loop> loop_ = std::move(*uring::Loop::create());
  std::unique_ptr<disk::FileDisk> disk_ =
      std::move(*disk::FileDisk::open({.path = folder_.make_image("disk.img", kDiskBytes.raw())}));
};

struct Kind {
  const char* name;
  std::function<std::unique_ptr<Subject>()> make;
};

class DirtyLogTest : public ::testing::TestWithParam<Kind> {
 protected:
  static constexpr std::uint64_t kPages = 64;
  static constexpr Gpa kHeader{0};
  static constexpr Gpa kStatus{0x3fff};  ///< the last byte of page 3

  DirtyLogTest() {
    const auto info = subject_->info();
    device_.emplace(BlockDeviceOptions{.disk = info, .serial = "s"});
    blk_ = std::make_unique<BlockQueue>(*device_, subject_->open(), 8);
  }

  /// Serves one request with its header in page 0.
  void serve(RequestType type, std::uint64_t sector, std::vector<HandMadeQueue::Extent> data) {
    const vblk::RequestHeader header{type, 0, sector};
    EXPECT_TRUE(plain_.write(kHeader, std::as_bytes(std::span(&header, 1))));
    data.insert(data.begin(), {kHeader, sizeof header, Direction::kReadable});
    data.push_back({kStatus, 1, Direction::kWritable});
    queue_.add(std::move(data));
    blk_->process(queue_);
    subject_->finish();
    EXPECT_EQ(queue_.used.size(), 1u);
  }
  std::uint8_t status() { return *plain_.load<std::uint8_t>(kStatus); }
  std::vector<std::uint64_t> marked() {
    std::vector<std::uint64_t> pages;
    for (std::uint64_t page = 0; page < kPages; ++page) {
      if (log_->is_marked(Gpn(page))) pages.push_back(page);
    }
    return pages;
  }

  mem::GuestMemory plain_ = *mem::GuestMemory::allocate(ByteCount(kPages * kPageSize));
  std::shared_ptr<const mem::DirtyLog> log_ =
      std::make_shared<mem::DirtyLog>(*mem::DirtyLog::for_memory(ByteCount(kPages * kPageSize)));
  std::unique_ptr<Subject> subject_ = GetParam().make();
  std::optional<BlockDevice> device_;
  std::unique_ptr<BlockQueue> blk_;
  HandMadeQueue queue_{plain_.with_dirty_log(log_)};
};

INSTANTIATE_TEST_SUITE_P(
    Disks, DirtyLogTest,
    ::testing::Values(Kind{"Ram", [] { return std::make_unique<RamSubject>(); }},
                      Kind{"File", [] { return std::make_unique<FileSubject>(); }}),
    [](const auto& kind) { return kind.param.name; });

TEST_P(DirtyLogTest, AReadMarksEveryPageOfItsDataAndTheStatus) {
  serve(
      RequestType::kIn, 0,
      {{Gpa(0x8000), 0x2000, Direction::kWritable}, {Gpa(0x20000), 0x1000, Direction::kWritable}});
  EXPECT_EQ(status(), 0);
  EXPECT_THAT(marked(), ElementsAre(3, 8, 9, 0x20));
}

TEST_P(DirtyLogTest, AReadIntoMisalignedSegmentsMarksTheirPages) {
  serve(RequestType::kIn, 0,
        {{Gpa(0x8ffb), 0x1007, Direction::kWritable},
         {Gpa(0x20001), 0x3fe, Direction::kWritable},
         {Gpa(0x30000), 0xbfb, Direction::kWritable}});
  EXPECT_EQ(status(), 0);
  EXPECT_THAT(marked(), ElementsAre(3, 8, 9, 0xa, 0x20, 0x30));
}

TEST_P(DirtyLogTest, AWriteMarksTheStatusOnly) {
  serve(RequestType::kOut, 0, {{Gpa(0x8000), 0x2000, Direction::kReadable}});
  EXPECT_EQ(status(), 0);
  EXPECT_THAT(marked(), ElementsAre(3));
}

TEST_P(DirtyLogTest, TheIdAndTheStatusOfAnErrorAreMarked) {
  serve(RequestType::kGetId, 0, {{Gpa(0x10000), 20, Direction::kWritable}});
  EXPECT_EQ(status(), 0);
  EXPECT_THAT(marked(), ElementsAre(3, 0x10));
}

TEST_P(DirtyLogTest, ARefusedReadMarksItsStatusOnly) {
  serve(RequestType::kIn, kDiskBytes.raw(), {{Gpa(0x8000), 0x2000, Direction::kWritable}});
  EXPECT_EQ(status(), 1);
  EXPECT_THAT(marked(), ElementsAre(3));
}

TEST_P(DirtyLogTest, AFailedReadMarksPagesThatMayBeWritten) {
  std::byte* const host = *plain_.host_range(Gpa(0), kPages * kPageSize);
  ASSERT_EQ(::mprotect(host + 0x9000, 0x1000, PROT_NONE), 0);
  serve(RequestType::kIn, 0, {{Gpa(0x8000), 0x2000, Direction::kWritable}});
  EXPECT_EQ(status(), 1);
  EXPECT_THAT(marked(), ::testing::IsSupersetOf({3, 8}));
}

TEST_P(DirtyLogTest, NothingIsMarkedBeforeARequest) { EXPECT_THAT(marked(), IsEmpty()); }

}  // namespace
}  // namespace guestio::blk
