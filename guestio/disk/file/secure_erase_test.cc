// SPDX-License-Identifier: MIT
#include "guestio/disk/file/secure_erase.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <vector>

#include "guestio/base/unique_fd.h"
#include "guestio/disk/probe/file_limits.h"
#include "guestio/task/scope.h"
#include "guestio/uring/run_task.h"
#include "testing/temporary.h"

// Devices with secure erase are rare: a function of the test replaces the system call.
namespace guestio::disk {
namespace {

struct EraseCalls {
  std::atomic<int> now = 0;
  std::atomic<int> max = 0;
  std::atomic<int> count = 0;
  std::atomic<std::uint64_t> bytes = 0;
};
EraseCalls erase_calls;

std::int32_t record_call(int, std::uint64_t offset, std::uint64_t length) noexcept {
  const int now = ++erase_calls.now;
  if (now > erase_calls.max) erase_calls.max = now;
  ++erase_calls.count;
  erase_calls.bytes += length;
  --erase_calls.now;
  return offset == 0 ? 0 : -static_cast<std::int32_t>(offset);
}

TEST(SecureErase, RunsOneAtATimeAndReturnsEachResult) {
  auto loop = std::move(*uring::Loop::create({}));
  Shortages shortages;
  SecureErase erasing(*loop, -1, shortages, &record_call);
  std::vector<Result<>> results(3);
  uring::run_task(*loop, [&]() -> task::Task<> {
    task::Scope scope;
    for (std::size_t i = 0; i < results.size(); ++i) {
      constexpr std::array kErrors = {0, EOPNOTSUPP, EIO};
      scope.spawn([](SecureErase& erase, int error, Result<>& result) -> task::Task<> {
        result = co_await erase.erase(FileOffset(static_cast<std::uint64_t>(error)), 4096);
      }(erasing, kErrors[i], results[i]));
    }
    co_await scope.join();
  }());
  EXPECT_TRUE(results[0].has_value());
  EXPECT_EQ(results[1].error().kind, ErrorKind::kUnsupported);
  EXPECT_EQ(results[2].error().host_errno, EIO);
  EXPECT_EQ(erase_calls.count, 3);
  EXPECT_EQ(erase_calls.max, 1);
  EXPECT_EQ(erase_calls.bytes, 3u * 4096);
}

std::atomic<int> shortages_left;

std::int32_t run_short(int, std::uint64_t, std::uint64_t) noexcept {
  return shortages_left-- > 0 ? -EAGAIN : 0;
}

TEST(SecureErase, Rule49AShortageIsWaitedOutAndThenCalledDirectly) {
  auto loop = std::move(*uring::Loop::create({}));
  Shortages shortages;
  SecureErase erasing(*loop, -1, shortages, &run_short);
  for (const int met : {1, 3, 4, 6}) {
    shortages_left = met;
    const auto before = shortages.met.value();
    Result<> result = fail(ErrorKind::kBusy, "not done");
    uring::run_task(*loop, [](SecureErase& erase, Result<>& to) -> task::Task<> {
      to = co_await erase.erase(FileOffset(0), 4096);
    }(erasing, result));
    EXPECT_TRUE(result.has_value()) << met;
    EXPECT_EQ(shortages.met.value() - before, static_cast<std::uint64_t>(met));
  }
}

TEST(SecureErase, IsNotOfferedWithoutSupport) {
  testing::TemporaryDirectory folder;
  const UniqueFd file(::open(folder.make_image("disk.img", 1 << 20).c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_FALSE(can_secure_erase(file.get()));
  const testing::LoopDevice device(folder.make_image("loop.img", 1 << 20), 512);
  if (device.path().empty()) GTEST_SKIP() << "no loop devices without root";
  const UniqueFd loop(::open(device.path().c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_FALSE(can_secure_erase(loop.get()));
}

}  // namespace
}  // namespace guestio::disk
