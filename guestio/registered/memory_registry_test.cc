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

UniqueFd make_memory_file() { return UniqueFd(::memfd_create("registered-memory", MFD_CLOEXEC)); }

/// The log since CaptureStderr().
std::string captured_log() {
  EXPECT_TRUE(log::flush(kAnswerLimit));
  return ::testing::internal::GetCapturedStderr();
}

/// Files in a tree cause notices; a memfd may not.
UniqueFd make_file_in_tree() {
  return UniqueFd(::open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
}
bool has_inotify() { return UniqueFd(::inotify_init1(IN_CLOEXEC)).operator bool(); }

/// Guest memory of a front-end, and its file.
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
  static bool generation_changes(const MemoryRegistry& registry, std::uint32_t before) {
    return wait_until([&] { return registry.generation() != before; });
  }
  static bool reaches_generation(const MemoryRegistry& registry, std::uint32_t generation) {
    return wait_until([&] { return registry.generation() >= generation; });
  }
  bool finds(const mem::GuestMemory& memory, std::uint64_t gpa, std::size_t size = kMiB) {
    return table_.find(host(memory, gpa), size).has_value();
  }

  const SharedMemory low_{Gpa(0)};
  const SharedMemory high_{Gpa(4 * kMiB)};
  uring::Ring ring_ = uring::Ring::create({.sq_entries = 4}).value();
  uring::RegisteredBuffers table_{ring_, 4};
};

/// The pinned memory of this process.
std::uint64_t pinned_kib() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmPin:")) return std::stoull(line.substr(6));
  }
  return 0;
}

/// Automatic registration requires that rings share it.
class AutoRegistrationTest : public MemoryRegistryTest {
 protected:
  void SetUp() override {
    if (!uring::PinnedBuffers::can_clone()) GTEST_SKIP() << "this kernel shares no registration";
    MemoryRegistryTest::SetUp();
  }
};

TEST_F(AutoRegistrationTest, EachRegionIsRegisteredFromReadyUntilItsRegistrationsEnd) {
  MemoryRegistry registry(RegistrationScope::kResidentOnly);
  const auto memory = both(low_.memory, high_.memory);
  EXPECT_TRUE(registry.register_ready(table_, memory).empty()) << "before set_memory()";
  registry.set_memory(memory);
  ASSERT_TRUE(reaches_generation(registry, 2));
  {
    const auto registrations = registry.register_ready(table_, memory);
    EXPECT_EQ(registrations.size(), 2U);
    EXPECT_TRUE(finds(memory, 0));
    EXPECT_TRUE(finds(memory, 4 * kMiB));
  }
  EXPECT_EQ(table_.buffers(), 0U);
}

TEST_F(MemoryRegistryTest, TwoRingsOfOneThreadShareTheRegistration) {
  MemoryRegistry registry(RegistrationScope::kAll);
  registry.set_memory(low_.memory);
  ASSERT_TRUE(generation_changes(registry, 0));
  auto first = registry.register_ready(table_, low_.memory);
  const auto second = registry.register_ready(table_, low_.memory);
  EXPECT_EQ(table_.buffers(), 1U);
  first.clear();
  EXPECT_TRUE(finds(low_.memory, 0));
}

TEST_F(MemoryRegistryTest, ARegionIsNotPreparedAgainWhenAnotherIsAddedAndRemoved) {
  MemoryRegistry registry(RegistrationScope::kAll);
  registry.set_memory(low_.memory);
  ASSERT_TRUE(generation_changes(registry, 0));
  const auto memory = both(low_.memory, high_.memory);
  registry.set_memory(memory);
  EXPECT_FALSE(registry.register_ready(table_, memory).empty()) << "at once";
  ASSERT_TRUE(generation_changes(registry, 1));
  EXPECT_EQ(registry.register_ready(table_, memory).size(), 2U);
  registry.set_memory(low_.memory);
  EXPECT_EQ(registry.register_ready(table_, memory).size(), 1U);
  EXPECT_EQ(registry.generation(), 2U);
}

TEST_F(MemoryRegistryTest, Rule44ARegionWithPartialPagesStaysUnregistered) {
  MemoryRegistry registry(RegistrationScope::kAll);
  for (const auto& odd :
       {mem::FileRegion{Gpa(8 * kMiB), ByteCount(7568), low_.file.get(), FileOffset(0)},
        mem::FileRegion{Gpa(8 * kMiB), ByteCount(8192), low_.file.get(), FileOffset(16)}}) {
    const auto memory = mem::add_file_region(high_.memory, odd).value();
    registry.set_memory(memory);
    ASSERT_TRUE(reaches_generation(registry, 1));
    const auto registrations = registry.register_ready(table_, memory);
    EXPECT_EQ(registrations.size(), 1U);
    EXPECT_TRUE(finds(memory, 4 * kMiB));
    EXPECT_FALSE(finds(memory, 8 * kMiB, 4096));
  }
}

TEST_F(MemoryRegistryTest, AtMostTheLimitOfRegionsIsRegisteredTheLargestFirst) {
  MemoryRegistry registry(RegistrationScope::kAll, std::make_shared<PeerLog>(), 1);
  const auto small = mem::add_file_region(
      mem::GuestMemory(), {Gpa(0), ByteCount(4096), low_.file.get(), FileOffset(0)});
  const auto memory = both(*small, high_.memory);
  registry.set_memory(memory);
  ASSERT_TRUE(reaches_generation(registry, 1));
  const auto registrations = registry.register_ready(table_, memory);
  EXPECT_EQ(registrations.size(), 1U);
  EXPECT_TRUE(finds(memory, 4 * kMiB));
}

TEST_F(AutoRegistrationTest, ARegionWithALostPageIsUnregistered) {
  MemoryRegistry registry(RegistrationScope::kResidentOnly);
  registry.set_memory(low_.memory);
  ASSERT_TRUE(generation_changes(registry, 0));
  auto registrations = registry.register_ready(table_, low_.memory);
  ASSERT_EQ(registrations.size(), 1U);
  low_.punch(8192);
  EXPECT_TRUE(finds(low_.memory, 0, 8192)) << "the gap is not met";
  EXPECT_FALSE(finds(low_.memory, 4096, 8192));
  EXPECT_FALSE(finds(low_.memory, 0, 4096)) << "the entire region";
  ASSERT_TRUE(generation_changes(registry, 1));
  registrations = registry.register_ready(table_, low_.memory);
  EXPECT_TRUE(registrations.empty());
  // Not registered again, even if resident again.
  ASSERT_EQ(::fallocate(low_.file.get(), 0, 0, kMiB), 0);
  registry.check_residency();
  registry.set_memory(both(low_.memory, high_.memory));
  ASSERT_TRUE(reaches_generation(registry, 3)) << "of the second region";
  EXPECT_TRUE(registry.register_ready(table_, low_.memory).empty());
}

TEST_F(MemoryRegistryTest, ALostPageIsNoticedWithoutAnOperation) {
  MemoryRegistry registry(RegistrationScope::kAll);
  registry.set_memory(low_.memory);
  ASSERT_TRUE(generation_changes(registry, 0));
  registry.check_residency();
  EXPECT_EQ(registry.generation(), 1U);
  low_.punch(0);
  registry.check_residency();
  EXPECT_EQ(registry.generation(), 2U);
  EXPECT_TRUE(registry.register_ready(table_, low_.memory).empty());
}

/// An idle ring.
class IdleSubscriber final : public LossSubscriber {
 public:
  IdleSubscriber(uring::Loop& loop, MemoryRegistry& registry, const mem::GuestMemory& memory)
      : LossSubscriber(loop),
        loop_(loop),
        registry_(registry),
        registrations_(registry.register_ready(loop.registered_buffers(), memory)) {
    registry_.subscribe(*this);
  }
  IdleSubscriber(const IdleSubscriber&) = delete;
  IdleSubscriber& operator=(const IdleSubscriber&) = delete;
  ~IdleSubscriber() { registry_.unsubscribe(*this); }
  [[nodiscard]] std::size_t registrations() const { return registrations_.size(); }

 private:
  void on_region_lost() noexcept override {
    registry_.unregister_lost(registrations_);
    loop_.stop();
  }
  uring::Loop& loop_;
  MemoryRegistry& registry_;
  MemoryRegistry::Registrations registrations_;
};

TEST_F(AutoRegistrationTest, AnIdleRingUnregistersReleasedMemory) {
  UniqueFd file = make_file_in_tree();
  if (!file || !has_inotify()) GTEST_SKIP() << "no shared memory in a tree, or no inotify";
  const SharedMemory shared(Gpa(0), true, std::move(file));
  const auto memory = both(shared.memory, high_.memory);
  const auto loop = uring::Loop::create().value();
  MemoryRegistry registry(RegistrationScope::kResidentOnly);
  registry.set_memory(memory);
  ASSERT_TRUE(reaches_generation(registry, 2));
  const IdleSubscriber subscriber(*loop, registry, memory);
  EXPECT_EQ(loop->registered_buffers().buffers(), 2U);
  std::promise<void> unregistered;
  const std::jthread patience([&loop, done = unregistered.get_future()] {
    if (done.wait_for(kAnswerLimit) != std::future_status::ready) loop->stop();
  });
  shared.punch(8192);
  loop->run();
  unregistered.set_value();
  EXPECT_EQ(subscriber.registrations(), 1U);
  EXPECT_EQ(loop->registered_buffers().buffers(), 1U);
  EXPECT_TRUE(loop->registered_buffers().find(host(memory, 4 * kMiB), kMiB)) << "the intact region";
}

/// Files watched with inotify by this process.
int watched_files() {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fdinfo")) {
    std::ifstream info(entry.path());
    for (std::string line; std::getline(info, line);) count += line.starts_with("inotify ") ? 1 : 0;
  }
  return count;
}

/// The state of a thread in /proc, or 0.
char thread_state(const std::string& name) {
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream file(task.path() / "stat");
    std::string line;
    std::getline(file, line);
    const auto found = line.find("(" + name + ") ");
    if (found != std::string::npos) return line[found + name.size() + 3];
  }
  return 0;
}

/// A slow subscriber, as many other disks would be.
class SlowSubscriber final : public MemoryMonitor::Subscriber {
 public:
  void on_memory_changed() noexcept override {
    was_called_.release();
    may_resume_.acquire();
  }
  std::binary_semaphore was_called_{0};
  std::binary_semaphore may_resume_{0};
};

TEST_F(MemoryRegistryTest, MemoryRemovedDuringPinningWaitsForTheMonitorAndNobodyForIt) {
  constexpr std::uint64_t kLargeBytes = 128 * kMiB;
  const UniqueFd watched_file = make_file_in_tree();
  if (!watched_file || !has_inotify()) GTEST_SKIP() << "no shared memory in a tree, or no inotify";
  const UniqueFd file = make_memory_file();
  ASSERT_EQ(::ftruncate(file.get(), kLargeBytes), 0);
  const auto large =
      mem::map_file_regions(std::array{mem::FileRegion{Gpa(4 * kMiB), ByteCount(kLargeBytes),
                                                       file.get(), FileOffset(0)}})
          .value();
  const auto monitor = MemoryMonitor::of_process().value();
  SlowSubscriber slow;
  const auto subscription = monitor->subscribe(watched_file.get(), slow);
  MemoryRegistry registry(RegistrationScope::kAll);
  registry.set_memory(both(low_.memory, large));
  // The largest region is the first. Pinning follows its subscription.
  ASSERT_TRUE(wait_until([] { return watched_files() >= 2; }));
  ASSERT_EQ(::ftruncate(watched_file.get(), 4096), 0);
  slow.was_called_.acquire();
  registry.set_memory(low_.memory);
  // The worker has another region to prepare: it sleeps only where it waits for the monitor.
  ASSERT_TRUE(wait_until([] { return thread_state("guestio-pin") == 'S'; }));
  auto asked = std::async(std::launch::async, [&registry] { registry.check_residency(); });
  EXPECT_EQ(asked.wait_for(kAnswerLimit), std::future_status::ready);
  slow.may_resume_.release();
}

TEST_F(MemoryRegistryTest, RegionsOfOneFileAreComparedWithAllOfItsPages) {
  const UniqueFd file = make_memory_file();
  ASSERT_EQ(::ftruncate(file.get(), 6 * kMiB), 0);
  const auto memory =
      mem::map_file_regions(
          std::array{mem::FileRegion{Gpa(0), ByteCount(4 * kMiB), file.get(), FileOffset(0)},
                     mem::FileRegion{Gpa(64 * kMiB), ByteCount(2 * kMiB), file.get(),
                                     FileOffset(4 * kMiB)}})
          .value();
  MemoryRegistry registry(RegistrationScope::kAll);
  registry.set_memory(memory);
  ASSERT_TRUE(reaches_generation(registry, 2));
  EXPECT_EQ(registry.register_ready(table_, memory).size(), 2U);
  ASSERT_EQ(::fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kMiB), 0);
  registry.check_residency();
  // The region of the lost page is unknown.
  EXPECT_TRUE(registry.register_ready(table_, memory).empty());
}

TEST_F(MemoryRegistryTest, AnEndedSubscriberIsNotCalled) {
  for (int round = 0; round < 20; ++round) {
    const SharedMemory shared{Gpa(0)};
    const auto loop = uring::Loop::create().value();
    MemoryRegistry registry(RegistrationScope::kAll);
    registry.set_memory(shared.memory);
    ASSERT_TRUE(generation_changes(registry, 0));
    {
      const IdleSubscriber subscriber(*loop, registry, shared.memory);
      shared.punch(0);
      registry.check_residency();
    }
    loop->run_until_idle();
    EXPECT_EQ(loop->registered_buffers().buffers(), 0U);
  }
}

TEST_F(AutoRegistrationTest, IncompleteMemoryWaitsUntilResidentOrIsFaultedInByAll) {
  const SharedMemory sparse(Gpa(0), false);
  MemoryRegistry resident_only(RegistrationScope::kResidentOnly);
  resident_only.set_memory(both(sparse.memory, high_.memory));
  ASSERT_TRUE(reaches_generation(resident_only, 1)) << "of the second region";
  EXPECT_TRUE(resident_only.register_ready(table_, sparse.memory).empty());
  resident_only.check_residency();
  const SharedMemory last(Gpa(8 * kMiB));
  resident_only.set_memory(both(both(sparse.memory, high_.memory), last.memory));
  ASSERT_TRUE(reaches_generation(resident_only, 2)) << "of the second region";
  EXPECT_TRUE(resident_only.register_ready(table_, sparse.memory).empty());
  MemoryRegistry all(RegistrationScope::kAll);
  all.set_memory(sparse.memory);
  ASSERT_TRUE(generation_changes(all, 0));
  EXPECT_EQ(all.register_ready(table_, sparse.memory).size(), 1U);
  resident_only.check_residency();
  EXPECT_TRUE(reaches_generation(resident_only, 3));
}

TEST_F(AutoRegistrationTest, AnonymousMemoryIsNotRegistered) {
  const auto memory = mem::GuestMemory::allocate(ByteCount(kMiB)).value();
  MemoryRegistry resident_only(RegistrationScope::kResidentOnly);
  resident_only.set_memory(both(memory, high_.memory));
  ASSERT_TRUE(reaches_generation(resident_only, 1)) << "of the second region";
  EXPECT_TRUE(resident_only.register_ready(table_, memory).empty());
}

TEST_F(MemoryRegistryTest, AnonymousMemoryIsRegisteredByAll) {
  const auto memory = mem::GuestMemory::allocate(ByteCount(kMiB)).value();
  ::testing::internal::CaptureStderr();
  MemoryRegistry all(RegistrationScope::kAll);
  all.set_memory(memory);
  ASSERT_TRUE(generation_changes(all, 0));
  EXPECT_NE(captured_log().find("without a page guard"), std::string::npos);
  const auto registrations = all.register_ready(table_, memory);
  EXPECT_TRUE(finds(memory, 0));
}

TEST_F(AutoRegistrationTest, AFileOnDiskIsNotCheckedForResidency) {
  const UniqueFd file = make_unlinked_file(O_CLOEXEC);
  if (!file) GTEST_SKIP() << "there is no disk here";
  ASSERT_EQ(::posix_fallocate(file.get(), 0, kMiB), 0);
  const auto memory = mem::map_file_regions(std::array{mem::FileRegion{Gpa(0), ByteCount(kMiB),
                                                                       file.get(), FileOffset(0)}})
                          .value();
  MemoryRegistry resident_only(RegistrationScope::kResidentOnly);
  resident_only.set_memory(both(memory, high_.memory));
  ASSERT_TRUE(reaches_generation(resident_only, 1)) << "of the second region";
  EXPECT_TRUE(resident_only.register_ready(table_, memory).empty());
}

TEST_F(MemoryRegistryTest, AFileOnDiskIsNotPinnedAndTheLogSaysSoOnce) {
  const SharedMemory on_disk(
      Gpa(0), true,
      UniqueFd(::open(::testing::TempDir().c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)));
  const auto memory = both(on_disk.memory, high_.memory);
  ::testing::internal::CaptureStderr();
  MemoryRegistry all(RegistrationScope::kAll);
  all.set_memory(memory);
  ASSERT_TRUE(generation_changes(all, 0)) << "of the second region";
  const auto registrations = all.register_ready(table_, memory);
  EXPECT_EQ(registrations.size(), 1U);
  EXPECT_FALSE(finds(memory, 0));
  all.set_memory(high_.memory);
  all.set_memory(memory);
  all.set_memory(low_.memory);
  ASSERT_TRUE(generation_changes(all, 1));
  const std::string logged = captured_log();
  const auto line = logged.find("memory-backend-memfd");
  ASSERT_NE(line, std::string::npos) << logged;
  EXPECT_EQ(logged.find("memory-backend-memfd", line + 1), std::string::npos) << logged;
}

/// A front-end with more regions than its share of a thread's table, one of them larger.
TEST_F(MemoryRegistryTest, AFrontEndWithManyRegionsLeavesOthersOfItsThreadTheirShare) {
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
  ASSERT_TRUE(reaches_generation(greedy, kTiny + 1));
  const auto registrations = greedy.register_ready(table, many);
  EXPECT_EQ(registrations.size(), 6U);
  EXPECT_TRUE(table.find(host(many, 8 * kMiB), kMiB)) << "the largest first";
  // As another ring of the disk, and under another memory table.
  EXPECT_EQ(greedy.register_ready(table, many).size(), 6U);
  EXPECT_EQ(table.buffers(), 6U);
  MemoryRegistry modest(RegistrationScope::kAll);
  modest.set_memory(both(low_.memory, high_.memory));
  ASSERT_TRUE(reaches_generation(modest, 2));
  EXPECT_EQ(modest.register_ready(table, both(low_.memory, high_.memory)).size(), 2U);
}

TEST_F(MemoryRegistryTest, ARegionWithoutSlotsStaysUnregisteredAndTheLogSaysSoOnce) {
  uring::RegisteredBuffers small(ring_, 1);
  MemoryRegistry registry(RegistrationScope::kAll);
  const auto memory = both(low_.memory, high_.memory);
  registry.set_memory(memory);
  ASSERT_TRUE(reaches_generation(registry, 2));
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(registry.register_ready(small, memory).size(), 1U);
  EXPECT_EQ(registry.register_ready(small, memory).size(), 1U);
  const std::string logged = captured_log();
  const auto line = logged.find("guest memory stays unregistered");
  ASSERT_NE(line, std::string::npos) << logged;
  EXPECT_EQ(logged.find("guest memory stays unregistered", line + 1), std::string::npos) << logged;
}

/// A page fault under the test's control stops the pinning in the middle.
TEST_F(MemoryRegistryTest, UnwantedMemoryIsNotFaultedInToItsEnd) {
  constexpr std::uint64_t kStepBytes = 16 * kMiB;
  const UniqueFd faults(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  if (!faults) GTEST_SKIP() << "no userfaultfd for this user";
  if (!uring::PinnedBuffers::can_clone()) GTEST_SKIP() << "rings pin for themselves";
  uffdio_api api{.api = UFFD_API, .features = 0, .ioctls = 0};
  ASSERT_EQ(::ioctl(faults.get(), UFFDIO_API, &api), 0);
  const auto large = mem::GuestMemory::allocate(ByteCount(3 * kStepBytes)).value();
  // A 2 MiB page would reach into the next step.
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
  ASSERT_TRUE(generation_changes(registry, 0));
  EXPECT_EQ(registry.register_ready(table_, low_.memory).size(), 1U);
  unsigned char is_there = 0;
  ASSERT_EQ(::mincore(host(large, 2 * kStepBytes), 4096, &is_there), 0);
  EXPECT_EQ(is_there & 1, 0);
}

TEST_F(MemoryRegistryTest, NothingStaysPinnedWhenItEndsDuringItsWork) {
  // The kernel unpins late, also for other tests.
  ASSERT_TRUE(wait_until([] { return pinned_kib() == 0; }));
  for (int round = 0; round < 20; ++round) {
    MemoryRegistry registry(RegistrationScope::kAll);
    registry.set_memory(both(low_.memory, high_.memory));
  }
  EXPECT_TRUE(wait_until([] { return pinned_kib() == 0; })) << pinned_kib() << " KiB";
}

}  // namespace
}  // namespace guestio::registered
