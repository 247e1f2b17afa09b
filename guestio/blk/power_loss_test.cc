// SPDX-License-Identifier: MIT
// Repeated power loss under a running queue: durable data survives, cached data may be lost, and
// nothing else changes.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "guestio/blk/block_queue.h"
#include "guestio/blk/test/hand_made_queue.h"
#include "testing/crash_disk.h"

namespace guestio::blk {
namespace {

namespace vblk = virtio::blk;
using testing::CrashDisk;
using vblk::RequestType;
using virtio::Direction;

/// Contents of a sector, in each of its words: the number of its write, or zero.
using Stamp = std::uint64_t;

/// Possible contents of a sector after a power loss.
class SectorModel {
 public:
  void sent(std::uint64_t order, Stamp stamp) { all_.push_back({order, stamp}); }
  /// The write is in the disk's cache. A discard is a hint: the old bytes may stay.
  void done(std::uint64_t order, RequestType type) {
    if (type != RequestType::kDiscard) newest_ = order;
  }
  [[nodiscard]] std::uint64_t newest() const { return newest_; }
  /// The write is durable: nothing older can come back.
  void safe(std::uint64_t order) {
    std::erase_if(all_, [order](const Entry& entry) { return entry.order < order; });
  }
  [[nodiscard]] bool allows(Stamp stamp) const {
    return std::ranges::any_of(all_, [stamp](const Entry& entry) { return entry.stamp == stamp; });
  }
  void survived(Stamp stamp) {
    all_ = {{0, stamp}};
    newest_ = 0;
  }

 private:
  struct Entry {
    std::uint64_t order;
    Stamp stamp;
  };
  std::vector<Entry> all_ = {{0, 0}};
  std::uint64_t newest_ = 0;  // of the completed ones
};

/// Write-cache mode of the driver.
enum class Safety { kFlush, kWriteThrough, kNoFlushCommand };

/// A channel to a disk that outlives the queue.
class BorrowedDisk final : public disk::Channel {
 public:
  explicit BorrowedDisk(CrashDisk& disk) noexcept : disk_(disk) {}
  void start(disk::Io& io) noexcept override { disk_.start(io); }

 private:
  CrashDisk& disk_;
};

class PowerLossTest : public ::testing::TestWithParam<Safety> {
 protected:
  static constexpr std::uint64_t kSectors = 64;
  static constexpr std::uint64_t kMaxSectors = 8;  // of one request
  static constexpr std::size_t kSlots = 16;        // requests in flight
  static constexpr std::uint64_t kSlotBytes = 8192;

  struct Request {
    RequestType type;
    std::uint64_t sector;
    std::uint64_t count;
    std::uint64_t order;                ///< among all, from 1
    std::vector<std::uint64_t> covers;  ///< of a flush: the newest write to each sector
  };

  void SetUp() override {
    if (GetParam() == Safety::kWriteThrough) {
      const std::byte off{0};
      ASSERT_TRUE(device_.write_config(offsetof(vblk::Config, writeback), std::span(&off, 1)));
    }
    power_on();
  }
  void power_on() {
    queue_.emplace(memory_);
    if (GetParam() == Safety::kNoFlushCommand) queue_->negotiated = 0;
    sent_ = 0;
    answered_ = 0;
    blk_ = std::make_unique<BlockQueue>(device_, std::make_unique<BorrowedDisk>(disk_), kSlots);
  }

  [[nodiscard]] std::uint64_t random(std::uint64_t below) { return random_() % below; }
  [[nodiscard]] static Gpa slot_of(std::size_t index) { return Gpa(index % kSlots * kSlotBytes); }
  /// Requests in flight share no sector: the order of two writes would be undefined.
  [[nodiscard]] bool is_busy(const Request& request) const {
    return std::ranges::any_of(in_flight_, [&](const auto& entry) {
      const Request& other = entry.second;
      return request.sector < other.sector + other.count &&
             other.sector < request.sector + request.count;
    });
  }

  void send_something() {
    if (in_flight_.contains(sent_ - kSlots)) return;  // its slot is in use
    constexpr std::array kTypes = {RequestType::kOut,     RequestType::kOut,
                                   RequestType::kOut,     RequestType::kWriteZeroes,
                                   RequestType::kDiscard, RequestType::kFlush};
    Request request{.type = kTypes[random(kTypes.size())],
                    .sector = random(kSectors - kMaxSectors),
                    .count = 1 + random(kMaxSectors),
                    .order = orders_ + 1,
                    .covers = {}};
    if (request.type == RequestType::kFlush) {
      request.count = 0;
      for (const SectorModel& sector : sectors_) request.covers.push_back(sector.newest());
    }
    if (!is_busy(request)) send(std::move(request));
  }

  void send(Request request) {
    ++orders_;
    const Stamp stamp = request.type == RequestType::kOut ? request.order : 0;
    for (std::uint64_t i = 0; i < request.count; ++i) {
      sectors_[request.sector + i].sent(request.order, stamp);
    }
    const Gpa place = slot_of(sent_);
    const Gpa data = place.plus_unchecked(512);
    std::vector<test::HandMadeQueue::Extent> chain = {{place, 16, Direction::kReadable}};
    const auto add_data = [&](std::span<const std::byte> bytes) {
      ASSERT_TRUE(memory_.write(data, bytes));
      chain.push_back({data, static_cast<std::uint32_t>(bytes.size()), Direction::kReadable});
    };
    const vblk::RequestHeader header{request.type, 0, request.sector};
    ASSERT_TRUE(memory_.write(place, std::as_bytes(std::span(&header, 1))));
    if (request.type == RequestType::kOut) {
      const std::vector<Stamp> words(request.count * 64, stamp);
      add_data(std::as_bytes(std::span(words)));
    } else if (request.type != RequestType::kFlush) {
      const vblk::RangeSegment range{request.sector, static_cast<std::uint32_t>(request.count), 0};
      add_data(std::as_bytes(std::span(&range, 1)));
    }
    chain.push_back({place.plus_unchecked(64), 1, Direction::kWritable});
    in_flight_.emplace(sent_++, std::move(request));
    queue_->add(std::move(chain));
    blk_->process(*queue_);
  }

  void take_answers() {
    for (; answered_ < queue_->used.size(); ++answered_) {
      const std::size_t head = queue_->used[answered_].head;
      ASSERT_EQ(*memory_.load<std::byte>(slot_of(head).plus_unchecked(64)), std::byte{0});
      note_answer(in_flight_.extract(head).mapped());
    }
  }
  void note_answer(const Request& request) {
    for (std::size_t i = 0; i < request.covers.size(); ++i) sectors_[i].safe(request.covers[i]);
    for (std::uint64_t i = 0; i < request.count; ++i) {
      SectorModel& sector = sectors_[request.sector + i];
      sector.done(request.order, request.type);
      if (GetParam() != Safety::kFlush) sector.safe(sector.newest());
    }
  }

  void lose_power() {
    disk_.lose_power();
    in_flight_.clear();
    blk_.reset();
    for (std::uint64_t i = 0; i < kSectors; ++i) {
      const CrashDisk::SectorBytes& bytes = disk_.at(i);
      Stamp stamp = 0;
      std::memcpy(&stamp, bytes.data(), sizeof stamp);
      const std::vector<Stamp> words(64, stamp);
      ASSERT_EQ(std::memcmp(words.data(), bytes.data(), bytes.size()), 0) << "half of sector " << i;
      ASSERT_TRUE(sectors_[i].allows(stamp)) << "sector " << i << " holds " << stamp;
      sectors_[i].survived(stamp);
    }
    power_on();
  }

  std::mt19937_64 random_{11};
  CrashDisk disk_{kSectors, 12};
  BlockDevice device_{{.disk = disk_.info(), .serial = "s"}};
  mem::GuestMemory memory_ = *mem::GuestMemory::allocate(ByteCount(kSlots * kSlotBytes));
  std::optional<test::HandMadeQueue> queue_;
  std::unique_ptr<BlockQueue> blk_;
  std::array<SectorModel, kSectors> sectors_;
  std::map<std::size_t, Request> in_flight_;
  std::size_t sent_ = 0;  // since power-on
  std::size_t answered_ = 0;
  std::uint64_t orders_ = 0;
};

TEST_P(PowerLossTest, Rule30And31DurableDataSurvivesAndNothingElseChanges) {
  for (int round = 0; round < 400; ++round) {
    for (std::uint64_t steps = random(200); steps > 0; --steps) {
      if (random(2) == 0) {
        send_something();
      } else {
        disk_.perform_one();
      }
      ASSERT_NO_FATAL_FAILURE(take_answers());
    }
    ASSERT_NO_FATAL_FAILURE(lose_power());
  }
}

class UnflushedTest : public PowerLossTest {};

TEST_P(UnflushedTest, CachedDataIsLostSometimes) {
  int lost = 0;
  for (int round = 0; round < 64; ++round) {
    send({.type = RequestType::kOut, .sector = 0, .count = 1, .order = orders_ + 1, .covers = {}});
    ASSERT_TRUE(disk_.perform_one());
    ASSERT_NO_FATAL_FAILURE(take_answers());
    ASSERT_NO_FATAL_FAILURE(lose_power());
    lost += sectors_[0].allows(orders_) ? 0 : 1;
  }
  EXPECT_GT(lost, 0);
  EXPECT_LT(lost, 64);
}

std::string name_of(const ::testing::TestParamInfo<Safety>& instance) {
  switch (instance.param) {
    case Safety::kFlush: return "Flush";
    case Safety::kWriteThrough: return "WriteThrough";
    case Safety::kNoFlushCommand: return "NoFlushCommand";
  }
  return {};
}

INSTANTIATE_TEST_SUITE_P(All, PowerLossTest,
                         ::testing::Values(Safety::kFlush, Safety::kWriteThrough,
                                           Safety::kNoFlushCommand),
                         &name_of);
INSTANTIATE_TEST_SUITE_P(WriteBack, UnflushedTest, ::testing::Values(Safety::kFlush), &name_of);

}  // namespace
}  // namespace guestio::blk
