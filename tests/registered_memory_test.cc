// SPDX-License-Identifier: MIT
// Guest memory registered with the kernel (--fixed-buffers) while guests release pages.
#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

constexpr std::size_t kRegionBytes = std::size_t{1} << 20;
constexpr std::uint64_t kRegionAt = 0x4'0000'0000;

/// A resident region.
struct Region {
  Region(UniqueFd file, std::uint64_t gpa)
      : fd(std::move(file)),
        where{.guest_address = gpa,
              .size = kRegionBytes,
              .user_address = 0x7000'0000'0000 + gpa,
              .mmap_offset = 0} {
    EXPECT_EQ(::ftruncate(fd.get(), kRegionBytes), 0);
    EXPECT_EQ(::fallocate(fd.get(), 0, 0, kRegionBytes), 0);
  }
  /// Releases a page, as a balloon does.
  void punch() const {
    EXPECT_EQ(::fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096), 0);
  }

  UniqueFd fd;
  vhost::MemoryRegion where;
};

class RegisteredMemoryTest : public BackendTest {
 protected:
  /// The region is registered beside another until it loses a page; the disk stays idle meanwhile.
  void expect_unregistered(const Region& region) {
    // Small, for the memory-lock limit of unprivileged users.
    const auto guest = connect({.memory = std::size_t{5} << 20});
    ASSERT_NE(guest, nullptr);
    const std::array regions = {guest->memory().region(),
                                vhost::Frontend::Region{region.where, region.fd.get()}};
    ASSERT_TRUE(guest->frontend().set_mem_table(regions));
    const auto is_refused = [&] {
      return backend_->output().find("RLIMIT_MEMLOCK is") != std::string::npos;
    };
    ASSERT_TRUE(wait_until([&] {
      EXPECT_EQ(guest->read(0, 4096).status, 0);
      return is_refused() || registered() == 2;
    })) << backend_->output();
    if (is_refused()) GTEST_SKIP() << "the user's memory-lock limit is too low";
    const std::uint64_t pinned = pinned_kib();
    EXPECT_GE(pinned, kRegionBytes / 1024);
    region.punch();
    EXPECT_TRUE(wait_until([&] { return registered() == 1; })) << backend_->output();
    EXPECT_TRUE(wait_until([&] { return count("unfixed_regions") == 1; }));
    EXPECT_TRUE(wait_until([&] { return pinned_kib() <= pinned - kRegionBytes / 1024; }))
        << pinned_kib() << " of " << pinned << " KiB stay pinned";
    EXPECT_EQ(guest->read(0, 4096).status, 0);
  }
  /// The memory pinned for the backend.
  [[nodiscard]] std::uint64_t pinned_kib() const {
    std::ifstream status("/proc/" + std::to_string(backend_->pid()) + "/status");
    std::string line;
    while (std::getline(status, line)) {
      if (line.starts_with("VmPin:")) return std::stoull(line.substr(6));
    }
    return 0;
  }
  std::uint64_t registered() { return count("fixed_regions"); }
  std::uint64_t count(const char* what) {
    const Outcome outcome = run({"--ask", control_, "statistics"});
    const auto json = nlohmann::json::parse(outcome.output, nullptr, false);
    EXPECT_FALSE(json.is_discarded()) << outcome.output;
    return json.is_discarded() ? ~0ULL : json["disks"][0][what].get<std::uint64_t>();
  }
};

TEST_F(RegisteredMemoryTest, AnIdleDiskUnregistersMemoryReleasedByTheGuest) {
  // A file in a directory tree, as of memory-backend-file: inotify reports its changes.
  UniqueFd file(::open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!file || !UniqueFd(::inotify_init1(IN_CLOEXEC))) {
    GTEST_SKIP() << "no tmpfs or no inotify instance available";
  }
  start({"--fixed-buffers", "on", "--control", control_});
  expect_unregistered({std::move(file), kRegionAt});
}

/// Memory without change notifications has to be checked by the thread itself.
TEST_F(RegisteredMemoryTest, AThreadThatNeverSleepsChecksPeriodically) {
  start({"--fixed-buffers", "on", "--poll", "always", "--control", control_});
  expect_unregistered({UniqueFd(::memfd_create("region", MFD_CLOEXEC)), kRegionAt});
}

TEST_F(RegisteredMemoryTest, ALowMemlockLimitIsReportedWithTheRequiredValue) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can start a process without CAP_IPC_LOCK";
  start_under({"/usr/bin/setpriv", "--bounding-set", "-ipc_lock", "/usr/bin/prlimit",
               "--memlock=8388608:8388608"},
              {"--fixed-buffers", "on"});
  const auto guest = connect({.memory = std::size_t{32} << 20});
  ASSERT_NE(guest, nullptr);
  EXPECT_TRUE(backend_->wait_for_output("RLIMIT_MEMLOCK is 8.0 MiB: raise it (LimitMEMLOCK= "))
      << backend_->output();
  EXPECT_EQ(guest->read(0, 4096).status, 0) << "slower, but served";
}

}  // namespace
}  // namespace guestio::tests
