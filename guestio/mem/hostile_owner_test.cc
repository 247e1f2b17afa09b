// SPDX-License-Identifier: MIT
// The owner of the memory unmaps and truncates it and changes its table during copies by threads
// and transfers by the kernel. Every operation ends with success or the right error.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "guestio/base/unique_fd.h"
#include "guestio/mem/mapped_memory.h"
#include "guestio/mem/recover.h"
#include "guestio/mem/test/places.h"

namespace guestio::mem {
namespace {

using test::make_memfd;
using test::region;

constexpr std::uint64_t kSize = 0x8000;
constexpr std::uint64_t kSafe = 0x1000;  ///< never attacked
constexpr std::uint64_t kHalf = kSize / 2;

/// An attack of the owner on its memory, and its repair.
struct Attack {
  const char* name;
  std::function<int(int fd, std::byte* host)> strike;
  std::function<int(int fd, std::byte* host)> restore;
  bool faults;  ///< memory is missing meanwhile
};

int protect(std::byte* host, int protection) {
  return ::mprotect(host + kSafe, kSize - kSafe, protection);
}

const std::array attacks{
    Attack{"Truncated", [](int fd, std::byte*) { return ::ftruncate(fd, kSafe); },
           [](int fd, std::byte*) { return ::ftruncate(fd, kSize); }, true},
    Attack{"Punched",
           [](int fd, std::byte*) {
             return ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, kSafe,
                                kSize - kSafe);
           },
           [](int, std::byte*) { return 0; }, false},
    Attack{"Protected", [](int, std::byte* host) { return protect(host, PROT_NONE); },
           [](int, std::byte* host) { return protect(host, PROT_READ | PROT_WRITE); }, true},
    Attack{"MadeReadOnly", [](int, std::byte* host) { return protect(host, PROT_READ); },
           [](int, std::byte* host) { return protect(host, PROT_READ | PROT_WRITE); }, true},
};

/// The results of one thread's operations.
struct Tally {
  int successes = 0;
  int faults = 0;

  template <typename T>
  void count(const Result<T>& result) {
    if (!result) {
      EXPECT_EQ(result.error().kind, ErrorKind::kMemoryFault);
    }
    ++(result ? successes : faults);
  }
  /// Of a transfer by the kernel: possibly short, or EFAULT at the first byte.
  void count_transfer(ssize_t moved, std::size_t wanted) {
    if (moved < 0) {
      EXPECT_EQ(errno, EFAULT);
    }
    ++(moved == static_cast<ssize_t>(wanted) ? successes : faults);
  }
  [[nodiscard]] bool has_seen(const Attack& attack, int enough) const {
    return successes >= enough && (faults >= enough || !attack.faults);
  }
};

class HostileOwnerTest : public testing::TestWithParam<Attack> {
 protected:
  /// Attacks and restores until stopped; the memory is restored at the end.
  void attack_until(const std::atomic<bool>& done) {
    std::byte* const host = *memory_.host_range(Gpa(0), kSize);
    while (!done) {
      EXPECT_EQ(GetParam().strike(fd_.get(), host), 0);
      std::this_thread::yield();
      EXPECT_EQ(GetParam().restore(fd_.get(), host), 0);
      ++strikes_;
      std::this_thread::yield();
    }
  }

  /// Every operation at changing addresses across the boundary of the attacked memory.
  void copy(Tally& tally, unsigned round) {
    std::array<std::byte, 0x900> buffer{};
    const Gpa at(kSafe - 0x800 + std::uint64_t{round % 7} * 0x400);
    tally.count(memory_.read(at, buffer));
    tally.count(memory_.write(at, buffer));
    tally.count(memory_.fill(at, std::byte{1}, buffer.size()));
    const Gpa word(kSafe + std::uint64_t{round % 64} * 8);
    tally.count(memory_.load<std::uint64_t>(word));
    tally.count(memory_.store<std::uint32_t>(word, round));
    std::uint64_t expected = round;
    tally.count(memory_.compare_exchange<std::uint64_t>(word, expected, 1));
    tally.count(memory_.probe(AddressRange::from_checked(at, 0x1000), Access::kWrite));
  }

  /// The kernel reads a file into `half` of the memory, and writes it from there.
  void transfer(Tally& tally, std::uint64_t half, const UniqueFd& file) {
    const auto range = AddressRange::from_checked(Gpa(half + 0x800), 0x2000);
    SegmentArray<1> segments;
    const auto lock = memory_.lock(range, Access::kWrite, segments);
    ASSERT_TRUE(lock) << "a lock of ordinary memory touches nothing";
    const iovec* const iovecs = as_iovecs(segments.data());
    tally.count_transfer(::preadv(file.get(), iovecs, 1, 0), 0x2000);
    tally.count_transfer(::pwritev(file.get(), iovecs, 1, 0), 0x2000);
  }

  /// Repeats `operation` in two threads until each has seen enough of each expected result. An
  /// invisible attack ends with the test's time limit.
  void storm(const std::function<void(Tally&, unsigned round, unsigned thread)>& operation) {
    constexpr int kEnough = 100;
    constexpr int kEnoughStrikes = 40;
    std::atomic<bool> done = false;
    std::array<Tally, 2> tallies;
    std::thread owner([&] { attack_until(done); });
    std::array<std::thread, 2> users;
    for (unsigned i = 0; i < users.size(); ++i) {
      users[i] = std::thread([&, i] {
        for (unsigned round = 0;
             strikes_ < kEnoughStrikes || !tallies[i].has_seen(GetParam(), kEnough); ++round) {
          operation(tallies[i], round, i);
        }
      });
    }
    for (std::thread& user : users) user.join();
    done = true;
    owner.join();
    EXPECT_TRUE(memory_.fill(Gpa(0), std::byte{9}, kSize)) << "the memory is there again";
  }

  std::atomic<int> strikes_ = 0;
  UniqueFd fd_ = make_memfd(kSize);
  GuestMemory memory_ = *map_file_regions(std::array{region(0, kSize, fd_)});
};

INSTANTIATE_TEST_SUITE_P(Attacks, HostileOwnerTest, testing::ValuesIn(attacks),
                         [](const auto& attack) { return attack.param.name; });

TEST_P(HostileOwnerTest, EveryOperationEndsWithSuccessOrAMemoryFault) {
  storm([&](Tally& tally, unsigned round, unsigned) { copy(tally, round); });
}

TEST_P(HostileOwnerTest, TransfersByTheKernelEndWithSuccessOrEfault) {
  const std::array files{make_memfd(0x2000), make_memfd(0x2000)};
  storm([&](Tally& tally, unsigned, unsigned thread) {
    transfer(tally, thread * kHalf, files[thread]);
  });
}

/// Readers take the current memory, as a device does for each request, and use it for arbitrary
/// times while the table keeps changing.
TEST(MemoryTableChanges, AHandleKeepsItsRegionsMapped) {
  constexpr std::uint64_t kFar = 0x100000;
  constexpr int kChanges = 300;
  const UniqueFd fd = make_memfd(2 * kSize);
  std::mutex mutex;
  GuestMemory present = *map_file_regions(std::array{region(0, kSize, fd)});
  const auto take = [&] {
    const std::scoped_lock lock(mutex);
    return present;
  };
  std::atomic<bool> done = false;
  const auto use = [&](std::uint64_t place) {
    const auto range = AddressRange::from_checked(Gpa(kFar + place), 8);
    while (!done) {
      const GuestMemory memory = take();
      EXPECT_TRUE(memory.store<std::uint64_t>(Gpa(place), 1)) << "a permanent region";
      SegmentArray<1> segments;
      const auto lock = memory.lock(range, Access::kWrite, segments);
      EXPECT_EQ(lock.has_value(), memory.regions().size() == 2);
      if (!lock) continue;
      // Locked memory stays mapped, whatever the table is by now.
      for (int i = 0; i < 20; ++i) {
        EXPECT_TRUE(try_store(reinterpret_cast<std::uint64_t*>(segments[0].data), 7));
      }
      EXPECT_TRUE(memory.load<std::uint64_t>(range.start()));
    }
  };
  std::thread first(use, 0x10);
  std::thread second(use, 0x2000);
  for (int i = 0; i < kChanges; ++i) {
    const GuestMemory before = take();
    const GuestMemory after = i % 2 == 0 ? *add_file_region(before, region(kFar, kSize, fd, kSize))
                                         : *remove_region(before, Gpa(kFar), ByteCount(kSize));
    const std::scoped_lock lock(mutex);
    present = after;
  }
  done = true;
  first.join();
  second.join();
}

}  // namespace
}  // namespace guestio::mem
