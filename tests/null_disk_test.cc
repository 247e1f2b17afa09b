// SPDX-License-Identifier: MIT
// The null disk of guestio-blk: null:SIZE.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

class NullDiskTest : public BackendTest {
 protected:
  static std::vector<std::byte> bytes_of(unsigned value) {
    return std::vector<std::byte>(4096, static_cast<std::byte>(value));
  }
};

TEST_F(NullDiskTest, HasTheSizeInItsName) {
  image_ = "null:3M";
  start();
  const auto guest = connect();
  EXPECT_EQ(guest->config().capacity, (std::uint64_t{3} << 20) / 512);
  EXPECT_EQ(guest->read((3 << 11) - 8, 4096).status, 0);
  EXPECT_EQ(guest->read((3 << 11) - 7, 4096).status, 1);
  stop();
}

TEST_F(NullDiskTest, DropsWritesAndLeavesReadBuffersUnchanged) {
  image_ = "null:1G";
  start();
  const auto guest = connect();
  EXPECT_EQ(guest->write(8, bytes_of(1)).status, 0);
  EXPECT_EQ(guest->flush().status, 0);
  // Fills the data buffer of the next request.
  EXPECT_EQ(guest->write(16, bytes_of(2)).status, 0);
  const auto read = guest->read(8, 4096);
  EXPECT_EQ(read.status, 0);
  EXPECT_EQ(read.used_length, 4097u);
  EXPECT_EQ(read.data, bytes_of(2));
  stop();
}

TEST_F(NullDiskTest, HonorsReadOnlyAndBlockSize) {
  image_ = "null:1G";
  start({"--read-only", "--block-size", "4096"});
  const auto guest = connect();
  EXPECT_EQ(guest->config().blk_size, 4096u);
  EXPECT_EQ(guest->write(8, bytes_of(1)).status, 1);
  EXPECT_EQ(guest->read(8, 4096).status, 0);
  EXPECT_EQ(guest->read(1, 4096).status, 1);
}

/// Such a thread stays and wakes every few seconds: an idle process would use the processor.
TEST_F(NullDiskTest, StartsNoIoUringWorkers) {
  image_ = "null:1G";
  start();
  const auto guest = connect();
  ASSERT_EQ(guest->read(8, 4096).status, 0);
  const std::string tasks = "/proc/" + std::to_string(backend_->pid()) + "/task";
  int threads = 0;
  for (const auto& task : std::filesystem::directory_iterator(tasks)) {
    std::ifstream file(task.path() / "comm");
    std::string name;
    std::getline(file, name);
    EXPECT_FALSE(name.starts_with("iou-wrk")) << name;
    ++threads;
  }
  EXPECT_GE(threads, 2) << "the control thread and a queue thread";
}

TEST_F(NullDiskTest, TwoMayHaveTheSameName) {
  image_ = "null:1G";
  start();
  testing::ChildProcess other(
      {kBackendProgram, "--socket-path", folder_.file("other"), "--blk-file", image_});
  EXPECT_TRUE(other.wait_for_output("serves ")) << other.output();
  other.send_signal(SIGTERM);
  EXPECT_EQ(other.wait(), 0);
}

TEST_F(NullDiskTest, AnInvalidSizePrintsOneLineAndExitsWithStatusTwo) {
  for (const char* name : {"null:", "null:x", "null:0", "null:511", "null:-1"}) {
    testing::ChildProcess child({kBackendProgram, "--socket-path", socket_, "--blk-file", name});
    EXPECT_EQ(child.wait(), 2) << name;
    EXPECT_NE(child.output().find("null disk"), std::string::npos) << child.output();
    EXPECT_EQ(std::ranges::count(child.output(), '\n'), 1) << child.output();
  }
}

}  // namespace
}  // namespace guestio::tests
