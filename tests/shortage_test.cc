// SPDX-License-Identifier: MIT
// guestio-blk on a host short of resources: its disks work as before.
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

namespace vblk = virtio::blk;
using Type = testing::BlkGuest::Type;

constexpr std::uint8_t kDone = 0;
constexpr std::size_t kChunk = std::size_t{256} << 10;

class ShortageTest : public BackendTest {
 protected:
  /// A backend that gets no more threads from the kernel, hence no io_uring workers. The limit does
  /// not bind root, so it runs as another user with access to root's files.
  void start_without_workers(std::vector<std::string> more) {
    if (::geteuid() != 0) GTEST_SKIP() << "only root can start it as another user";
    // Memory registration would need a thread of its own.
    more.insert(more.end(), {"--control", control_, "--fixed-buffers", "off"});
    start_under(as_nobody({}), more);
    // Only the same user may set the limits of a process.
    testing::ChildProcess setter(
        as_nobody({"/usr/bin/prlimit", "--pid", std::to_string(backend_->pid()), "--nproc=1:1"}));
    ASSERT_EQ(setter.wait(), 0) << setter.output();
  }
  static std::vector<std::string> as_nobody(const std::vector<std::string>& command) {
    // LeakSanitizer would need a thread at exit.
    std::vector<std::string> words = {"/usr/bin/env",
                                      "ASAN_OPTIONS=detect_leaks=0",
                                      "/usr/bin/setpriv",
                                      "--reuid=65534",
                                      "--regid=65534",
                                      "--clear-groups",
                                      "--bounding-set=-all,+dac_override",
                                      "--inh-caps=-all,+dac_override",
                                      "--ambient-caps=-all,+dac_override"};
    words.insert(words.end(), command.begin(), command.end());
    return words;
  }
  std::uint64_t shortages() const {
    const Outcome outcome = run({"--ask", control_, "statistics"});
    const auto json = nlohmann::json::parse(outcome.output, nullptr, false);
    EXPECT_FALSE(json.is_discarded()) << outcome.output;
    return json["disks"][0]["shortages"].get<std::uint64_t>();
  }
  std::uint8_t change_range(testing::BlkGuest& guest, Type type, std::uint64_t sector,
                            std::uint32_t sectors) {
    const vblk::RangeSegment range{.sector = sector, .num_sectors = sectors, .flags = 0};
    return guest.perform(type, 0, std::as_bytes(std::span(&range, 1)), 0).status;
  }
  static std::vector<std::byte> content_of(std::size_t chunk) {
    return std::vector<std::byte>(kChunk, static_cast<std::byte>(chunk + 1));
  }
  /// Every kind of request, on a sparse image.
  void send_all_request_types() {
    const auto guest = connect();
    ASSERT_NE(guest, nullptr);
    constexpr std::size_t kChunks = 32;
    for (std::size_t i = 0; i < kChunks; ++i) {
      ASSERT_EQ(guest->write(i * kChunk / 512, content_of(i)).status, kDone) << i;
      if (i % 8 == 0) {
        ASSERT_EQ(guest->flush().status, kDone) << i;
      }
    }
    // To a buffer that is bounced.
    ASSERT_EQ(guest->perform(Type::kOut, kChunks * kChunk / 512, content_of(kChunks), 0, 3).status,
              kDone);
    ASSERT_EQ(change_range(*guest, Type::kWriteZeroes, kChunk / 512, kChunk / 512), kDone);
    ASSERT_EQ(change_range(*guest, Type::kDiscard, 2 * kChunk / 512, kChunk / 512), kDone);
    ASSERT_EQ(guest->flush().status, kDone);
    for (std::size_t i = 0; i <= kChunks; ++i) {
      const auto read = guest->read(i * kChunk / 512, kChunk);
      ASSERT_EQ(read.status, kDone) << i;
      if (i == 2) continue;  // discarded
      ASSERT_EQ(read.data, i == 1 ? std::vector<std::byte>(kChunk) : content_of(i)) << i;
    }
    EXPECT_GT(shortages(), 0U) << "io_uring workers were available: nothing was tested";
    const std::string output = backend_->output();
    EXPECT_NE(output.find("short of memory or threads"), std::string::npos) << output;
    EXPECT_EQ(output.find("request failed"), std::string::npos) << output;
  }
};

TEST_F(ShortageTest, Rule49DirectIoWorksWithoutIoUringWorkers) {
  start_without_workers({});
  if (IsSkipped() || HasFatalFailure()) return;
  send_all_request_types();
  stop();
}

TEST_F(ShortageTest, Rule49BufferedIoWorksWithoutIoUringWorkersAndLosesNoWrite) {
  start_without_workers({"--buffered"});
  if (IsSkipped() || HasFatalFailure()) return;
  send_all_request_types();
  EXPECT_EQ(connect()->flush().status, kDone);
  EXPECT_EQ(backend_->output().find("data may be lost"), std::string::npos);
  stop();
}

TEST_F(ShortageTest, Rule49WriteThroughWorksWithoutIoUringWorkers) {
  start_without_workers({});
  if (IsSkipped() || HasFatalFailure()) return;
  const auto guest =
      connect({.features = ~virtio::kFeatureRingPacked & ~virtio::blk::kFeatureFlush});
  ASSERT_NE(guest, nullptr);
  for (std::size_t i = 0; i < 8; ++i) {
    ASSERT_EQ(guest->write(i * kChunk / 512, content_of(i)).status, kDone) << i;
    ASSERT_EQ(guest->read(i * kChunk / 512, kChunk).data, content_of(i)) << i;
  }
  EXPECT_GT(shortages(), 0U);
  stop();
}

}  // namespace
}  // namespace guestio::tests
