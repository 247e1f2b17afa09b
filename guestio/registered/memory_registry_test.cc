// SPDX-License-Identifier: MIT
#include "guestio/registered/memory_registry.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <future>
#include <semaphore>
#include <string>
#include <thread>
#include <vector>

#include "guestio/base/log.h"
#include "guestio/base/unique_fd.h"
#include "guestio/mem/mapped_memory.h"
#include "guestio/uring/pinned_buffers.h"
#include "guestio/uring/ring.h"
#include "testing/unlinked_file.h"
#include "testing/wait_until.h"

namespace guestio::registered {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr auto kAnswerLimit = std::chrono::seconds(60);

UniqueFd make_memory_file() { return UniqueFd(::memfd_create("fixed-memory", MFD_CLOEXEC)); }

/// What was logged since CaptureStderr().
std::string captured_log() {
  EXPECT_TRUE(log::flush(kAnswerLimit));
  return ::testing::internal::GetCapturedStderr();
}

/// Files in a tree make news; a memfd may not.
UniqueFd make_file_in_tree() {
  return UniqueFd(::open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
}
bool makes_news() { return UniqueFd(::inotify_init1(IN_CLOEXEC)).operator bool(); }

/// Guest memory as a front-end hands it over, and the file that it is.
struct SharedMemory {
  explicit SharedMemory(Gpa start, bool is_resident = true, UniqueFd of = make_memory_file())
      : file(std::move(of)) {
    EXPECT_EQ(::ftruncate(file.get(), kMiB), 0);
    if (is_resident) {
      EXPECT_EQ(::fallocate(file.get(), 0, 0, kMiB), 0);
    }
    memory = mem::map_file_regions(
                 std::array{mem::FileRegion{start, ByteCount(kMiB), file.get(), FileOffset(0)}})
                 .value();
  }
  void punch(off_t at) const {
    EXPECT_EQ(::fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, 4096), 0);
  }

  UniqueFd file;
  mem::GuestMemory memory;
};

class MemoryRegistryTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(mem::install_fault_recovery()); }
  static std::byte* host(const mem::GuestMemory& memory, std::uint64_t gpa) {
    return memory.host_range(Gpa(gpa), 1).value();
  }
  static mem::GuestMemory both(const mem::GuestMemory& a, const mem::GuestMemory& b) {
    auto specs = a.specs();
    specs.push_back(b.specs().front());
    return mem::GuestMemory::create(specs).value();
  }
  static bool changes_from(const MemoryRegistry& fixed, std::uint32_t before) {
    return wait_until([&] { return fixed.generation() != before; });
  }
  static bool comes_to(const MemoryRegistry& fixed, std::uint32_t generation) {
    return wait_until([&] { return fixed.generation() >= generation; });
  }
  bool finds(const mem::GuestMemory& memory, std::uint64_t gpa, std::size_t size = kMiB) {
    return table_.find(host(memory, gpa), size).has_value();
  }

  const SharedMemory low_{Gpa(0)};
  const SharedMemory high_{Gpa(4 * kMiB)};
  uring::Ring ring_ = uring::Ring::create({.sq_entries = 4}).value();
  uring::RegisteredBuffers table_{ring_, 4};
};

/// What the kernel keeps in place for this process.
std::uint64_t pinned_kib() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmPin:")) return std::stoull(line.substr(6));
  }
  return 0;
}

/// What is registered unasked is so only where rings can share it.
class AutoRegistrationTest : public MemoryRegistryTest {
 protected:
  void SetUp() override {
    if (!uring::PinnedBuffers::can_clone()) GTEST_SKIP() << "this kernel shares no registration";
    MemoryRegistryTest::SetUp();
  }
};

TEST_F(AutoRegistrationTest, EveryRegionIsRegisteredOnceItIsReadyUntilTheRegistrationsGo) {
  MemoryRegistry registry(RegistrationScope::kResidentOnly);
  const auto memory = both(low_.memory, high_.memory);
  EXPECT_TRUE(registry.register_ready(table_, memory).empty()) << "of what nobody wants";
  registry.set_memory(memory);
  ASSERT_TRUE(comes_to(registry, 2));
  {
    const auto taken = registry.register_ready(table_, memory);
    EXPECT_EQ(taken.size(), 2U);
    EXPECT_TRUE(finds(memory, 0));
    EXPECT_TRUE(finds(memory, 4 * kMiB));
  }
  EXPECT_EQ(table_.buffers(), 0U);
}

TEST_F(MemoryRegistryTest, TwoRingsOfOneThreadShareTheRegistration) {
  MemoryRegistry registry(RegistrationScope::kAll);
  registry.set_memory(low_.memory);
  ASSERT_TRUE(changes_from(registry, 0));
  auto first = registry.register_ready(table_, low_.memory);
  const auto second = registry.register_ready(table_, low_.memory);
  EXPECT_EQ(table_.buffers(), 1U);
  first.clear();
  EXPECT_TRUE(finds(low_.memory, 0));
}

TEST_F(MemoryRegistryTest, ARegionThatStaysIsNotMadeReadyAnewWhenAnotherComesAndGoes) {
  MemoryRegistry registry(RegistrationScope::kAll);
  registry.set_memory(low_.memory);
  ASSERT_TRUE(changes_from(registry, 0));
  const auto memory = both(low_.memory, high_.memory);
  registry.set_memory(memory);
  EXPECT_FALSE(registry.register_ready(table_, memory).empty()) << "at once";
  ASSERT_TRUE(changes_from(registry, 1));
  EXPECT_EQ(registry.register_ready(table_, memory).size(), 2U);
  registry.set_memory(low_.memory);
  EXPECT_EQ(registry.register_ready(table_, memory).size(), 1U);
  EXPECT_EQ(registry.generation(), 2U);
}

TEST_F(MemoryRegistryTest, Rule44ARegionThatIsNoWholePagesStaysUnregistered) {
  MemoryRegistry registry(RegistrationScope::kAll);
  for (const auto& odd :
       {mem::FileRegion{Gpa(8 * kMiB), ByteCount(7568), low_.file.get(), FileOffset(0)},
        mem::FileRegion{Gpa(8 * kMiB), ByteCount(8192), low_.file.get(), FileOffset(16)}}) {
    const auto memory = mem::add_file_region(high_.memory, odd).value();
    registry.set_memory(memory);
    ASSERT_TRUE(comes_to(registry, 1));
    const auto taken = registry.register_ready(table_, memory);
    EXPECT_EQ(taken.size(), 1U);
    EXPECT_TRUE(finds(memory, 4 * kMiB));
    EXPECT_FALSE(finds(memory, 8 * kMiB, 4096));
  }
}

TEST_F(MemoryRegistryTest, NoMoreRegionsAreRegisteredThanItMayHaveTheLargestFirst) {
  MemoryRegistry registry(RegistrationScope::kAll, std::make_shared<PeerLog>(), 1);
  const auto small = mem::add_file_region(
      mem::GuestMemory(), {Gpa(0), ByteCount(4096), low_.file.get(), FileOffset(0)});
  const auto memory = both(*small, high_.memory);
  registry.set_memory(memory);
  ASSERT_TRUE(comes_to(registry, 1));
  const auto taken = registry.register_ready(table_, memory);
  EXPECT_EQ(taken.size(), 1U);
  EXPECT_TRUE(finds(memory, 4 * kMiB));
}

TEST_F(AutoRegistrationTest, ARegionThatLosesAPageIsRegisteredNoMore) {
  MemoryRegistry registry(RegistrationScope::kResidentOnly);
  registry.set_memory(low_.memory);
  ASSERT_TRUE(changes_from(registry, 0));
  auto taken = registry.register_ready(table_, low_.memory);
  ASSERT_EQ(taken.size(), 1U);
  low_.punch(8192);
  EXPECT_TRUE(finds(low_.memory, 0, 8192)) << "nobody has met the gap";
  EXPECT_FALSE(finds(low_.memory, 4096, 8192));
  EXPECT_FALSE(finds(low_.memory, 0, 4096)) << "as a whole";
  ASSERT_TRUE(changes_from(registry, 1));
  taken = registry.register_ready(table_, low_.memory);
  EXPECT_TRUE(taken.empty());
  // And not again, though all of it may be there by then.
  ASSERT_EQ(::fallocate(low_.file.get(), 0, 0, kMiB), 0);
  registry.check_residency();
  registry.set_memory(both(low_.memory, high_.memory));
  ASSERT_TRUE(comes_to(registry, 3)) << "of the region behind it";
  EXPECT_TRUE(registry.register_ready(table_, low_.memory).empty());
}

TEST_F(MemoryRegistryTest, APageThatGoesIsNoticedThoughNoOperationMeetsIt) {
  MemoryRegistry registry(RegistrationScope::kAll);
  registry.set_memory(low_.memory);
  ASSERT_TRUE(changes_from(registry, 0));
  registry.check_residency();
  EXPECT_EQ(registry.generation(), 1U);
  low_.punch(0);
  registry.check_residency();
  EXPECT_EQ(registry.generation(), 2U);
  EXPECT_TRUE(registry.register_ready(table_, low_.memory).empty());
}

/// A ring that has nothing to do.
class IdleSubscriber final : public LossSubscriber {
 public:
  IdleSubscriber(uring::Loop& loop, MemoryRegistry& fixed, const mem::GuestMemory& memory)
      : LossSubscriber(loop),
        loop_(loop),
        fixed_(fixed),
        taken_(fixed.register_ready(loop.registered_buffers(), memory)) {
    fixed_.subscribe(*this);
  }
  IdleSubscriber(const IdleSubscriber&) = delete;
  IdleSubscriber& operator=(const IdleSubscriber&) = delete;
  ~IdleSubscriber() { fixed_.unsubscribe(*this); }
  [[nodiscard]] std::size_t taken() const { return taken_.size(); }

 private:
  void on_region_lost() noexcept override {
    fixed_.unregister_lost(taken_);
    loop_.stop();
  }
  uring::Loop& loop_;
  MemoryRegistry& fixed_;
  MemoryRegistry::Registrations taken_;
};

TEST_F(AutoRegistrationTest, ARingThatIsIdleLetsMemoryGoThatTheGuestGivesBack) {
  UniqueFd file = make_file_in_tree();
  if (!file || !makes_news()) GTEST_SKIP() << "no shared memory in a tree, or no inotify";
  const SharedMemory shared(Gpa(0), true, std::move(file));
  const auto memory = both(shared.memory, high_.memory);
  const auto loop = uring::Loop::create().value();
  MemoryRegistry fixed(RegistrationScope::kResidentOnly);
  fixed.set_memory(memory);
  ASSERT_TRUE(comes_to(fixed, 2));
  const IdleSubscriber taker(*loop, fixed, memory);
  EXPECT_EQ(loop->registered_buffers().buffers(), 2U);
  std::promise<void> unregister;
  const std::jthread patience([&loop, done = unregister.get_future()] {
    if (done.wait_for(kAnswerLimit) != std::future_status::ready) loop->stop();
  });
  shared.punch(8192);
  loop->run();
  unregister.set_value();
  EXPECT_EQ(taker.taken(), 1U);
  EXPECT_EQ(loop->registered_buffers().buffers(), 1U);
  EXPECT_TRUE(loop->registered_buffers().find(host(memory, 4 * kMiB), kMiB))
      << "which lost nothing";
}

/// By inotify, in this process.
int watched_files() {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fdinfo")) {
    std::ifstream info(entry.path());
    for (std::string line; std::getline(info, line);) count += line.starts_with("inotify ") ? 1 : 0;
  }
  return count;
}

/// What /proc says of that thread of this process, or 0.
char state_of_thread(const std::string& name) {
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream file(task.path() / "stat");
    std::string line;
    std::getline(file, line);
    const auto found = line.find("(" + name + ") ");
    if (found != std::string::npos) return line[found + name.size() + 3];
  }
  return 0;
}

/// Stands for many other disks, which are told of something for long.
class SlowSubscriber final : public MemoryMonitor::Subscriber {
 public:
  void on_memory_changed() noexcept override {
    was_told_.release();
    may_resume_.acquire();
  }
  std::binary_semaphore was_told_{0};
  std::binary_semaphore may_resume_{0};
};

TEST_F(MemoryRegistryTest, MemoryThatGoesWhileItIsPinnedWaitsForNewsAndNobodyForIt) {
  constexpr std::uint64_t kLargeBytes = 128 * kMiB;
  const UniqueFd told_file = make_file_in_tree();
  if (!told_file || !makes_news()) GTEST_SKIP() << "no shared memory in a tree, or no inotify";
  const UniqueFd file = make_memory_file();
  ASSERT_EQ(::ftruncate(file.get(), kLargeBytes), 0);
  const auto large =
      mem::map_file_regions(std::array{mem::FileRegion{Gpa(4 * kMiB), ByteCount(kLargeBytes),
                                                       file.get(), FileOffset(0)}})
          .value();
  const auto news = MemoryMonitor::of_process().value();
  SlowSubscriber slow;
  const auto subscription = news->subscribe(told_file.get(), slow);
  MemoryRegistry fixed(RegistrationScope::kAll);
  fixed.set_memory(both(low_.memory, large));
  // The largest is the first. When news of it is heard, the pinning is what comes next.
  ASSERT_TRUE(wait_until([] { return watched_files() >= 2; }));
  ASSERT_EQ(::ftruncate(told_file.get(), 4096), 0);
  slow.was_told_.acquire();
  fixed.set_memory(low_.memory);
  // There is more to do for the thread that pinned it, so it sleeps only where it waits for news.
  ASSERT_TRUE(wait_until([] { return state_of_thread("guestio-pin") == 'S'; }));
  auto asked = std::async(std::launch::async, [&fixed] { fixed.check_residency(); });
  EXPECT_EQ(asked.wait_for(kAnswerLimit), std::future_status::ready);
  slow.may_resume_.release();
}

TEST_F(MemoryRegistryTest, RegionsOfOneFileAreComparedWithWhatAllHaveBroughtIn) {
  const UniqueFd file = make_memory_file();
  ASSERT_EQ(::ftruncate(file.get(), 6 * kMiB), 0);
  const auto memory =
      mem::map_file_regions(
          std::array{mem::FileRegion{Gpa(0), ByteCount(4 * kMiB), file.get(), FileOffset(0)},
                     mem::FileRegion{Gpa(64 * kMiB), ByteCount(2 * kMiB), file.get(),
                                     FileOffset(4 * kMiB)}})
          .value();
  MemoryRegistry fixed(RegistrationScope::kAll);
  fixed.set_memory(memory);
  ASSERT_TRUE(comes_to(fixed, 2));
  EXPECT_EQ(fixed.register_ready(table_, memory).size(), 2U);
  ASSERT_EQ(::fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kMiB), 0);
  fixed.check_residency();
  // Whose page it was is not known.
  EXPECT_TRUE(fixed.register_ready(table_, memory).empty());
}

TEST_F(MemoryRegistryTest, ARingThatEndsIsToldNothingMore) {
  for (int round = 0; round < 20; ++round) {
    const SharedMemory shared{Gpa(0)};
    const auto loop = uring::Loop::create().value();
    MemoryRegistry fixed(RegistrationScope::kAll);
    fixed.set_memory(shared.memory);
    ASSERT_TRUE(changes_from(fixed, 0));
    {
      const IdleSubscriber taker(*loop, fixed, shared.memory);
      shared.punch(0);
      fixed.check_residency();
    }
    loop->run_until_idle();
    EXPECT_EQ(loop->registered_buffers().buffers(), 0U);
  }
}

TEST_F(AutoRegistrationTest, MemoryThatIsNotAllThereWaitsUntilItIsOrIsBroughtInIfAll) {
  const SharedMemory sparse(Gpa(0), false);
  MemoryRegistry careful(RegistrationScope::kResidentOnly);
  careful.set_memory(both(sparse.memory, high_.memory));
  ASSERT_TRUE(comes_to(careful, 1)) << "of the region behind it";
  EXPECT_TRUE(careful.register_ready(table_, sparse.memory).empty());
  careful.check_residency();
  const SharedMemory last(Gpa(8 * kMiB));
  careful.set_memory(both(both(sparse.memory, high_.memory), last.memory));
  ASSERT_TRUE(comes_to(careful, 2)) << "of the region behind it";
  EXPECT_TRUE(careful.register_ready(table_, sparse.memory).empty());
  MemoryRegistry all(RegistrationScope::kAll);
  all.set_memory(sparse.memory);
  ASSERT_TRUE(changes_from(all, 0));
  EXPECT_EQ(all.register_ready(table_, sparse.memory).size(), 1U);
  careful.check_residency();
  EXPECT_TRUE(comes_to(careful, 3));
}

TEST_F(AutoRegistrationTest, MemoryThatIsNoFileIsNotRegistered) {
  const auto memory = mem::GuestMemory::allocate(ByteCount(kMiB)).value();
  MemoryRegistry careful(RegistrationScope::kResidentOnly);
  careful.set_memory(both(memory, high_.memory));
  ASSERT_TRUE(comes_to(careful, 1)) << "of the region behind it";
  EXPECT_TRUE(careful.register_ready(table_, memory).empty());
}

TEST_F(MemoryRegistryTest, MemoryThatIsNoFileIsRegisteredIfAllIs) {
  const auto memory = mem::GuestMemory::allocate(ByteCount(kMiB)).value();
  ::testing::internal::CaptureStderr();
  MemoryRegistry all(RegistrationScope::kAll);
  all.set_memory(memory);
  ASSERT_TRUE(changes_from(all, 0));
  EXPECT_NE(captured_log().find("without a page guard"), std::string::npos);
  const auto taken = all.register_ready(table_, memory);
  EXPECT_TRUE(finds(memory, 0));
}

TEST_F(AutoRegistrationTest, AFileOnDiskIsNotAskedHowMuchOfItIsThere) {
  const UniqueFd file = make_unlinked_file(O_CLOEXEC);
  if (!file) GTEST_SKIP() << "there is no disk here";
  ASSERT_EQ(::posix_fallocate(file.get(), 0, kMiB), 0);
  const auto memory = mem::map_file_regions(std::array{mem::FileRegion{Gpa(0), ByteCount(kMiB),
                                                                       file.get(), FileOffset(0)}})
                          .value();
  MemoryRegistry careful(RegistrationScope::kResidentOnly);
  careful.set_memory(both(memory, high_.memory));
  ASSERT_TRUE(comes_to(careful, 1)) << "of the region behind it";
  EXPECT_TRUE(careful.register_ready(table_, memory).empty());
}

TEST_F(MemoryRegistryTest, AFileThatSomebodyElseAnswersForIsNotPinnedAndThatIsTold) {
  const SharedMemory on_disk(
      Gpa(0), true,
      UniqueFd(::open(::testing::TempDir().c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)));
  const auto memory = both(on_disk.memory, high_.memory);
  ::testing::internal::CaptureStderr();
  MemoryRegistry all(RegistrationScope::kAll);
  all.set_memory(memory);
  ASSERT_TRUE(changes_from(all, 0)) << "of the region behind it";
  const auto taken = all.register_ready(table_, memory);
  EXPECT_EQ(taken.size(), 1U);
  EXPECT_FALSE(finds(memory, 0));
  all.set_memory(high_.memory);
  all.set_memory(memory);
  all.set_memory(low_.memory);
  ASSERT_TRUE(changes_from(all, 1));
  const std::string told = captured_log();
  const auto line = told.find("memory-backend-memfd");
  ASSERT_NE(line, std::string::npos) << told;
  EXPECT_EQ(told.find("memory-backend-memfd", line + 1), std::string::npos) << told;
}

/// A front-end with more regions than its share of a thread's table, one of them larger.
TEST_F(MemoryRegistryTest, AFrontEndWithManyRegionsLeavesTheOthersOfItsThreadTheirShare) {
  constexpr std::uint64_t kTiny = 10;
  const UniqueFd file = make_memory_file();
  ASSERT_EQ(::ftruncate(file.get(), 2 * kMiB), 0);
  std::vector<mem::FileRegion> regions;
  for (std::uint64_t i = 0; i < kTiny; ++i) {
    regions.push_back({Gpa(2 * i * 4096), ByteCount(4096), file.get(), FileOffset(i * 4096)});
  }
  regions.push_back({Gpa(8 * kMiB), ByteCount(kMiB), file.get(), FileOffset(kMiB)});
  const auto many = mem::map_file_regions(regions).value();
  uring::RegisteredBuffers table(ring_, 16);
  table.add_tenant();
  table.add_tenant();
  ASSERT_EQ(table.slot_quota(), 6U);
  MemoryRegistry greedy(RegistrationScope::kAll);
  greedy.set_memory(many);
  ASSERT_TRUE(comes_to(greedy, kTiny + 1));
  const auto taken = greedy.register_ready(table, many);
  EXPECT_EQ(taken.size(), 6U);
  EXPECT_TRUE(table.find(host(many, 8 * kMiB), kMiB)) << "the largest first";
  // As another ring of the same disk, and again under another table of memory.
  EXPECT_EQ(greedy.register_ready(table, many).size(), 6U);
  EXPECT_EQ(table.buffers(), 6U);
  MemoryRegistry modest(RegistrationScope::kAll);
  modest.set_memory(both(low_.memory, high_.memory));
  ASSERT_TRUE(comes_to(modest, 2));
  EXPECT_EQ(modest.register_ready(table, both(low_.memory, high_.memory)).size(), 2U);
}

TEST_F(MemoryRegistryTest, WhatTheTableHasNoRoomForStaysPlainAndIsToldOnce) {
  uring::RegisteredBuffers small(ring_, 1);
  MemoryRegistry registry(RegistrationScope::kAll);
  const auto memory = both(low_.memory, high_.memory);
  registry.set_memory(memory);
  ASSERT_TRUE(comes_to(registry, 2));
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(registry.register_ready(small, memory).size(), 1U);
  EXPECT_EQ(registry.register_ready(small, memory).size(), 1U);
  const std::string told = captured_log();
  const auto line = told.find("guest memory stays unregistered");
  ASSERT_NE(line, std::string::npos) << told;
  EXPECT_EQ(told.find("guest memory stays unregistered", line + 1), std::string::npos) << told;
}

/// One page whose arrival the test decides about: held up in it, the pinning is in the middle.
TEST_F(MemoryRegistryTest, MemoryThatIsWantedNoMoreIsNotBroughtInToItsEnd) {
  constexpr std::uint64_t kStepBytes = 16 * kMiB;
  const UniqueFd faults(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  if (!faults) GTEST_SKIP() << "no userfaultfd for this user";
  if (!uring::PinnedBuffers::can_clone()) GTEST_SKIP() << "rings pin for themselves";
  uffdio_api api{.api = UFFD_API, .features = 0, .ioctls = 0};
  ASSERT_EQ(::ioctl(faults.get(), UFFDIO_API, &api), 0);
  const auto large = mem::GuestMemory::allocate(ByteCount(3 * kStepBytes)).value();
  // A page of 2 MiB might reach into the next step.
  ASSERT_EQ(::madvise(host(large, 0), 3 * kStepBytes, MADV_NOHUGEPAGE), 0);
  const uffdio_range page{reinterpret_cast<std::uintptr_t>(host(large, kStepBytes)), 4096};
  uffdio_register held{.range = page, .mode = UFFDIO_REGISTER_MODE_MISSING, .ioctls = 0};
  ASSERT_EQ(::ioctl(faults.get(), UFFDIO_REGISTER, &held), 0);
  MemoryRegistry registry(RegistrationScope::kAll);
  registry.set_memory(large);
  pollfd waits{faults.get(), POLLIN, 0};
  ASSERT_EQ(::poll(&waits, 1, 60'000), 1);
  registry.set_memory(low_.memory);
  uffdio_zeropage answer{.range = page, .mode = 0, .zeropage = 0};
  ASSERT_EQ(::ioctl(faults.get(), UFFDIO_ZEROPAGE, &answer), 0);
  ASSERT_TRUE(changes_from(registry, 0));
  EXPECT_EQ(registry.register_ready(table_, low_.memory).size(), 1U);
  unsigned char is_there = 0;
  ASSERT_EQ(::mincore(host(large, 2 * kStepBytes), 4096, &is_there), 0);
  EXPECT_EQ(is_there & 1, 0);
}

TEST_F(MemoryRegistryTest, ItEndsInTheMiddleOfItsWorkAndNothingStaysPinned) {
  // The kernel takes its time to let go, of what other tests had as well.
  ASSERT_TRUE(wait_until([] { return pinned_kib() == 0; }));
  for (int round = 0; round < 20; ++round) {
    MemoryRegistry registry(RegistrationScope::kAll);
    registry.set_memory(both(low_.memory, high_.memory));
  }
  EXPECT_TRUE(wait_until([] { return pinned_kib() == 0; })) << pinned_kib() << " KiB";
}

}  // namespace
}  // namespace guestio::registered
