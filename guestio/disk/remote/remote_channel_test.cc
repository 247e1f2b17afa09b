// SPDX-License-Identifier: MIT
#include "guestio/disk/remote/remote_channel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "guestio/base/align.h"
#include "guestio/mem/recover.h"
#include "testing/disk_conformance.h"

namespace guestio::disk {
namespace {

using testing::DiskConformance;
using testing::DiskKind;
using testing::DiskSubject;
using testing::TestIo;

constexpr std::uint64_t kDiskBytes = std::uint64_t{4} << 20;
constexpr ByteCount kMuchBounce(std::uint64_t{8} << 20);
constexpr ByteCount kLittleBounce(std::uint64_t{64} << 10);

/// An engine that keeps its bytes in a vector and answers in random order.
class ModelEngine final : public RemoteDisk {
 public:
  ModelEngine(const DiskInfo& info, const RemoteLimits& limits)
      : RemoteDisk("a model", info, limits), bytes_(info.size.raw()) {}

  Result<std::unique_ptr<Channel>> open_channel(uring::Loop& loop, ByteCount bounce) override;

  void keep(ByteCount limit) { keep_unflushed_writes(limit); }
  void change_size(ByteCount size) {
    bytes_.resize(size.raw());
    announce_size(size);
  }
  Result<> perform(const RemoteCommand::Work& work) {
    log.push_back(work);
    EXPECT_TRUE(is_aligned(work.offset.raw() | work.length, limits().alignment));
    const bool is_transfer = work.kind == IoKind::kRead || work.kind == IoKind::kWrite;
    EXPECT_LE(work.length, is_transfer ? limits().max_transfer : limits().max_range);
    EXPECT_TRUE(limits().has_fua || work.durability == Durability::kCached);
    if (work.offset.raw() + work.length > bytes_.size()) {
      ADD_FAILURE() << "outside of the disk";
      return fail(ErrorKind::kInvalidArgument, "a range");
    }
    std::byte* const at = bytes_.data() + work.offset.raw();
    switch (work.kind) {
      case IoKind::kRead: std::memcpy(work.data.data(), at, work.length); break;
      case IoKind::kWrite: std::memcpy(at, work.data.data(), work.length); break;
      case IoKind::kWriteZeroes:
        EXPECT_TRUE(limits().has_write_zeroes);
        std::memset(at, 0, work.length);
        break;
      case IoKind::kFlush:
        EXPECT_TRUE(limits().has_flush);
        if (fails_flush) return fail(Error::host(ENOSPC, "flush"));
        break;
      case IoKind::kDiscard: std::memset(at, 0xdd, work.length); break;
      case IoKind::kSecureErase: ADD_FAILURE() << "an erase";
    }
    return {};
  }

  std::vector<RemoteCommand::Work> log;
  bool is_away = false;
  bool fails_flush = false;
  std::size_t collisions = 0;  // of a discard or write-zeroes and a write to the same large block

 private:
  std::vector<std::byte> bytes_;
};

constexpr std::uint64_t kLargeBlock = 65536;

bool is_range(const RemoteCommand& command) {
  return command.work().kind == IoKind::kDiscard || command.work().kind == IoKind::kWriteZeroes;
}

bool share_large_block(const RemoteCommand& a, const RemoteCommand& b) {
  const auto end = [](const RemoteCommand& command) {
    return align_up(command.work().offset.raw() + command.work().length, kLargeBlock);
  };
  const auto start = [](const RemoteCommand& command) {
    return align_down(command.work().offset.raw(), kLargeBlock);
  };
  return start(a) < end(b) && start(b) < end(a);
}

bool collide(const RemoteCommand& a, const RemoteCommand& b) {
  const bool is_critical = (is_range(a) && b.work().kind == IoKind::kWrite) ||
                           (is_range(b) && a.work().kind == IoKind::kWrite);
  return is_critical && share_large_block(a, b);
}

class ModelChannel final : public RemoteChannel {
 public:
  ModelChannel(ModelEngine& engine, uring::Loop& loop, buf::OpenBounceAccount bounce)
      : RemoteChannel(engine, loop, std::move(bounce)), engine_(engine) {}

  /// Completes one command.
  bool step() {
    if (waiting_.empty()) return false;
    std::swap(waiting_[random_() % waiting_.size()], waiting_.back());
    RemoteCommand* const command = waiting_.back();
    waiting_.pop_back();
    command->complete(engine_.perform(command->work()));
    return true;
  }
  void come_back() {
    engine_.is_away = false;
    notify_available();
  }

 private:
  void submit(RemoteCommand& command) noexcept override {
    if (engine_.is_away) return command.complete(fail(ErrorKind::kClosed, "a server"));
    engine_.collisions += static_cast<std::size_t>(std::ranges::count_if(
        waiting_, [&](const RemoteCommand* other) { return collide(*other, command); }));
    // Some are answered at once.
    if (random_() % 4 == 0) return command.complete(engine_.perform(command.work()));
    waiting_.push_back(&command);
  }

  ModelEngine& engine_;
  std::vector<RemoteCommand*> waiting_;
  std::mt19937_64 random_{7};
};

Result<std::unique_ptr<Channel>> ModelEngine::open_channel(uring::Loop& loop, ByteCount bounce) {
  auto account = open_account(loop, bounce);
  if (!account) return fail(account.error());
  return std::make_unique<ModelChannel>(*this, loop, std::move(*account));
}

DiskInfo model_info() {
  DiskInfo info;
  info.size = ByteCount(kDiskBytes);
  info.discard = RangeLimits{ByteCount(kDiskBytes), ByteCount(512)};
  return info;
}

class ModelSubject final : public DiskSubject {
 public:
  explicit ModelSubject(const RemoteLimits& limits, ByteCount bounce = kMuchBounce)
      : engine_(model_info(), limits) {
    EXPECT_TRUE(mem::install_fault_recovery());
    auto opened = engine_.open_channel(*loop_, bounce);
    EXPECT_TRUE(opened.has_value());
    channel_.reset(static_cast<ModelChannel*>(opened->release()));
  }
  const DiskInfo& info() const override { return engine_.info(); }
  ModelChannel& channel() override { return *channel_; }
  void run_until(const std::function<bool()>& is_done) override {
    while (!is_done()) {
      if (!channel_->step()) loop_->run_until_idle();
    }
  }
  ModelEngine& engine() { return engine_; }

 private:
  std::unique_ptr<uring::Loop> loop_ = std::move(*uring::Loop::create());
  ModelEngine engine_;
  std::unique_ptr<ModelChannel> channel_;
};

DiskKind kind(std::string name, const RemoteLimits& limits, ByteCount bounce = kMuchBounce) {
  return {std::move(name), [=] { return std::make_unique<ModelSubject>(limits, bounce); }};
}

INSTANTIATE_TEST_SUITE_P(
    Remote, DiskConformance,
    ::testing::Values(
        kind("bytes", {}), kind("little_bounce", {.max_transfer = 4096}, kLittleBounce),
        kind("large_blocks", {.max_transfer = std::uint64_t{256} << 10, .alignment = 4096}),
        kind("range_blocks", {.range_block = kLargeBlock}),
        kind("no_fua", {.alignment = 512, .has_fua = false}),
        kind("no_zeroes", {.max_range = 65536, .alignment = 4096, .has_write_zeroes = false}),
        kind("one_block",
             {.max_transfer = 8192, .max_range = 8192, .alignment = 8192, .has_fua = false},
             kLittleBounce)),
    [](const auto& test) { return test.param.name; });

/// One channel and requests of one page.
class RemoteChannelTest : public ::testing::Test {
 protected:
  void prepare(TestIo& io, IoKind kind, std::uint64_t offset, std::uint64_t length) {
    io.kind = kind;
    io.offset = FileOffset(offset);
    io.length = length;
    io.result.reset();
    if (kind != IoKind::kRead && kind != IoKind::kWrite) return;
    io.extents = {mem::AddressRange::from_checked(Gpa(0), length)};
    io.buffers = *buf::RequestBuffers::from_extents(
        memory_, io.extents,
        kind == IoKind::kRead ? buf::MemoryAccess::kWritable : buf::MemoryAccess::kReadOnly);
  }
  static Result<> perform(ModelSubject& subject, TestIo& io) {
    io.result.reset();
    subject.channel().start(io);
    subject.run_until([&] { return io.result.has_value(); });
    EXPECT_EQ(std::exchange(io.times_done, 0), 1);
    return *io.result;
  }

  mem::GuestMemory memory_ = *mem::GuestMemory::allocate(ByteCount(std::uint64_t{1} << 20));
};

TEST_F(RemoteChannelTest, AStableWriteUsesFuaWhereTheServerHasIt) {
  for (const bool has_fua : {true, false}) {
    ModelSubject subject({.has_fua = has_fua});
    TestIo io;
    io.durability = Durability::kStable;
    prepare(io, IoKind::kWrite, 4096, 4096);
    ASSERT_TRUE(perform(subject, io));
    const auto& log = subject.engine().log;
    ASSERT_EQ(log.size(), has_fua ? 1U : 2U);
    EXPECT_EQ(log[0].durability, has_fua ? Durability::kStable : Durability::kCached);
    EXPECT_EQ(log.back().kind, has_fua ? IoKind::kWrite : IoKind::kFlush);
  }
}

TEST_F(RemoteChannelTest, StableZeroesAndDiscardsReachTheStorage) {
  for (const auto what : {IoKind::kWriteZeroes, IoKind::kDiscard}) {
    ModelSubject subject({.alignment = 4096, .has_fua = false});
    TestIo io;
    io.durability = Durability::kStable;
    prepare(io, what, 4096, 8192);
    ASSERT_TRUE(perform(subject, io));
    EXPECT_EQ(subject.engine().log.back().kind, IoKind::kFlush);
  }
}

TEST_F(RemoteChannelTest, AStableZeroingWithEdgesFlushesThem) {
  ModelSubject subject({.alignment = 4096});
  TestIo io;
  io.durability = Durability::kStable;
  prepare(io, IoKind::kWriteZeroes, 512, 16384);
  ASSERT_TRUE(perform(subject, io));
  EXPECT_EQ(subject.engine().log.back().kind, IoKind::kFlush);
}

TEST_F(RemoteChannelTest, AFlushNeedsNoCommandWithoutACache) {
  ModelSubject subject({.has_flush = false});
  TestIo io;
  prepare(io, IoKind::kFlush, 0, 0);
  EXPECT_TRUE(perform(subject, io));
  EXPECT_TRUE(subject.engine().log.empty());
}

TEST_F(RemoteChannelTest, TheEngineSeesNoGuestMemory) {
  ModelSubject subject({});
  TestIo io;
  prepare(io, IoKind::kWrite, 0, 4096);
  ASSERT_TRUE(perform(subject, io));
  const auto guest = memory_.host_range(Gpa(0), 4096);
  ASSERT_TRUE(guest.has_value());
  EXPECT_NE(subject.engine().log[0].data.data(), *guest);
}

TEST_F(RemoteChannelTest, DiscardAndZeroesExcludeWritesWhereTheServerDoesNot) {
  for (const std::uint64_t range_block : {std::uint64_t{0}, kLargeBlock}) {
    ModelSubject subject({.range_block = range_block});
    std::mt19937_64 random(3);
    std::deque<TestIo> ios(300);
    constexpr std::array kKinds = {IoKind::kWrite, IoKind::kDiscard, IoKind::kWriteZeroes};
    for (std::size_t i = 0; i < ios.size(); ++i) {
      prepare(ios[i], kKinds[i % kKinds.size()], random() % 64 * 4096, (1 + random() % 16) * 4096);
      subject.channel().start(ios[i]);
    }
    subject.run_until([&] {
      return std::ranges::all_of(ios, [](const TestIo& io) { return io.result.has_value(); });
    });
    EXPECT_TRUE(std::ranges::all_of(ios, [](const TestIo& io) { return io.result->has_value(); }));
    EXPECT_EQ(subject.engine().collisions == 0, range_block != 0);
  }
}

TEST_F(RemoteChannelTest, AWriteBackCacheIsFlushedBeforeTheCopiesAreTooMany) {
  constexpr std::uint64_t kLimit = 65536;
  ModelSubject subject({});
  subject.engine().keep(ByteCount(kLimit));
  TestIo io;
  for (std::uint64_t i = 0; i < 64; ++i) {
    prepare(io, IoKind::kWrite, i * 4096, 4096);
    ASSERT_TRUE(perform(subject, io));
  }
  const auto flushes = std::ranges::count(subject.engine().log, IoKind::kFlush,
                                          [](const auto& work) { return work.kind; });
  EXPECT_EQ(flushes, 3);
  prepare(io, IoKind::kFlush, 0, 0);
  ASSERT_TRUE(perform(subject, io));
  EXPECT_TRUE(subject.engine().unflushed_writes()->is_empty());
}

/// What is written before the first flush.
std::uint64_t bytes_before_flush(const ModelEngine& engine) {
  std::uint64_t bytes = 0;
  for (const RemoteCommand::Work& work : engine.log) {
    if (work.kind == IoKind::kFlush) break;
    bytes += work.length;
  }
  return bytes;
}

TEST_F(RemoteChannelTest, AFailedFlushKeepsTheCopiesFew) {
  constexpr std::uint64_t kLimit = 65536;
  for (const auto what : {IoKind::kWrite, IoKind::kWriteZeroes}) {
    for (const bool has_write_zeroes : {true, false}) {
      ModelSubject subject({.max_transfer = 4096, .has_write_zeroes = has_write_zeroes});
      subject.engine().keep(ByteCount(kLimit));
      subject.engine().fails_flush = true;
      TestIo io;
      bool has_failed = false;
      for (int i = 0; i < 3000; ++i) {
        prepare(io, what, 0, 16384);
        has_failed = !perform(subject, io) || has_failed;
      }
      EXPECT_TRUE(has_failed);
      const auto writes =
          subject.engine().log.size() -
          static_cast<std::size_t>(std::ranges::count(subject.engine().log, IoKind::kFlush,
                                                      [](const auto& work) { return work.kind; }));
      EXPECT_LT(writes, 2100U);  // a copy has at least 32 bytes
      if (what == IoKind::kWrite) {
        EXPECT_LE(bytes_before_flush(subject.engine()), kLimit + 4096);
      }
    }
  }
}

TEST_F(RemoteChannelTest, ALargeWriteIsFlushedInPieces) {
  constexpr std::uint64_t kLimit = 65536;
  ModelSubject subject({.max_transfer = 16384});
  subject.engine().keep(ByteCount(kLimit));
  TestIo io;
  prepare(io, IoKind::kWrite, 0, 1 << 20);
  ASSERT_TRUE(perform(subject, io));
  EXPECT_LE(bytes_before_flush(subject.engine()), kLimit + 16384);
}

TEST_F(RemoteChannelTest, AFailedCommandIsNotKept) {
  ModelSubject subject({});
  subject.engine().keep(ByteCount(65536));
  subject.engine().is_away = true;
  TestIo io;
  prepare(io, IoKind::kWrite, 0, 4096);
  EXPECT_FALSE(perform(subject, io));
  EXPECT_TRUE(subject.engine().unflushed_writes()->is_empty());
}

TEST_F(RemoteChannelTest, AnAbsentServerFailsRequestsAndAnnouncesItsReturn) {
  ModelSubject subject({});
  int announced = 0;
  subject.channel().on_available([&] { ++announced; });
  subject.engine().is_away = true;
  TestIo io;
  prepare(io, IoKind::kRead, 0, 4096);
  const auto refused = perform(subject, io);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().kind, ErrorKind::kClosed);
  EXPECT_EQ(announced, 0);
  subject.channel().come_back();
  EXPECT_EQ(announced, 1);
  EXPECT_TRUE(perform(subject, io));
}

TEST_F(RemoteChannelTest, AnnouncedGrowthIsTakenOverAndShrinkingRefused) {
  ModelSubject subject({});
  int heard = 0;
  subject.engine().on_size_change([&] { ++heard; });
  subject.engine().change_size(ByteCount(kDiskBytes + 512));
  EXPECT_EQ(heard, 1);
  EXPECT_EQ(subject.info().size, ByteCount(kDiskBytes));
  EXPECT_EQ(*subject.engine().refresh_size(), ByteCount(kDiskBytes + 512));
  EXPECT_EQ(subject.info().size, ByteCount(kDiskBytes + 512));
  subject.engine().change_size(ByteCount(kDiskBytes));
  EXPECT_EQ(heard, 2);
  EXPECT_FALSE(subject.engine().refresh_size());
  EXPECT_EQ(subject.info().size, ByteCount(kDiskBytes + 512));
}

}  // namespace
}  // namespace guestio::disk
