// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <guestio/mem/recover.h>
#include <guestio/testing/disk_conformance.h>
#include <guestio/uring/loop.h>

#include <filesystem>
#include <fstream>

#include "join_disk.h"

namespace join {
namespace {

using namespace guestio::disk;
using guestio::testing::DiskConformance;
using guestio::testing::DiskKind;
using guestio::testing::DiskSubject;

/// Files of these sizes in a folder of their own.
class Pieces {
 public:
  explicit Pieces(const std::vector<std::uint64_t>& sizes) {
    std::string folder = std::filesystem::temp_directory_path() / "join-XXXXXX";
    EXPECT_NE(::mkdtemp(folder.data()), nullptr);
    folder_ = folder;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      std::ofstream(path(i)).close();
      std::filesystem::resize_file(path(i), sizes[i]);
    }
    options.uri = "join";
    for (std::size_t i = 0; i < sizes.size(); ++i) options.uri += ":" + path(i);
  }
  Pieces(const Pieces&) = delete;
  Pieces& operator=(const Pieces&) = delete;
  ~Pieces() { std::filesystem::remove_all(folder_); }

  [[nodiscard]] std::string path(std::size_t i) const { return folder_ / std::to_string(i); }

  OpenOptions options;

 private:
  std::filesystem::path folder_;
};

/// A disk with one channel and its loop.
class JoinSubject final : public DiskSubject, private guestio::uring::Poller {
 public:
  explicit JoinSubject(const std::vector<std::uint64_t>& sizes) : pieces_(sizes) {
    EXPECT_TRUE(guestio::mem::install_fault_recovery());
    loop_->add_poller(*this);
  }
  ~JoinSubject() override { loop_->remove_poller(*this); }
  [[nodiscard]] const DiskInfo& info() const override { return disk_->info(); }
  [[nodiscard]] Channel& channel() override { return *channel_; }
  void run_until(const std::function<bool()>& is_done) override {
    is_done_ = &is_done;
    loop_->run();
  }

 private:
  bool poll() noexcept override {
    if ((*is_done_)()) loop_->stop();
    return false;
  }

  Pieces pieces_;
  std::unique_ptr<guestio::uring::Loop> loop_ = std::move(*guestio::uring::Loop::create());
  std::shared_ptr<JoinDisk> disk_ = *JoinDisk::open(pieces_.options, guestio::UniqueFd());
  std::unique_ptr<Channel> channel_ = *disk_->open_channel(*loop_, guestio::ByteCount(0));
  const std::function<bool()>* is_done_ = nullptr;
};

DiskKind kind(const char* name, const std::vector<std::uint64_t>& sizes) {
  return {name, [sizes] { return std::make_unique<JoinSubject>(sizes); }};
}

// 4 MiB each: the disk of the suite. Most of its requests cross the small pieces.
INSTANTIATE_TEST_SUITE_P(Join, DiskConformance,
                         ::testing::Values(kind("OnePiece", {4194304}),
                                           kind("TwoHalves", {2097152, 2097152}),
                                           kind("SmallAndLarge", {512, 1536, 8192, 512, 4183552})),
                         [](const auto& test) { return test.param.name; });

std::string failure_of(const OpenOptions& options) {
  const auto disk = JoinDisk::open(options, guestio::UniqueFd());
  return disk ? "" : disk.error().to_string();
}

TEST(JoinDisk, RefusesAMissingPiece) {
  Pieces pieces({4096});
  pieces.options.uri += ":/nonexistent";
  EXPECT_NE(failure_of(pieces.options).find("/nonexistent: "), std::string::npos);
}

TEST(JoinDisk, RefusesAPieceOfPartialBlocks) {
  const Pieces pieces({4096, 1000});
  EXPECT_NE(failure_of(pieces.options).find("whole blocks"), std::string::npos);
}

TEST(JoinDisk, RefusesUnknownSettings) {
  Pieces pieces({4096});
  pieces.options.settings["io-timeout"] = "1";
  EXPECT_NE(failure_of(pieces.options).find("io-timeout"), std::string::npos);
}

TEST(JoinDisk, IsInUseUntilItsEnd) {
  const Pieces pieces({4096, 4096});
  auto disk = JoinDisk::open(pieces.options, guestio::UniqueFd());
  ASSERT_TRUE(disk.has_value());
  EXPECT_NE(failure_of(pieces.options).find("in use"), std::string::npos);
  disk->reset();
  EXPECT_EQ(failure_of(pieces.options), "");
}

TEST(JoinDisk, ASuccessorGetsTheLockWithTheFirstPiece) {
  const Pieces pieces({4096, 4096});
  auto disk = JoinDisk::open(pieces.options, guestio::UniqueFd());
  ASSERT_TRUE(disk.has_value());
  auto snapshot = (*disk)->snapshot();
  ASSERT_TRUE(snapshot.has_value());
  const auto successor = JoinDisk::open(pieces.options, std::move(snapshot->io));
  ASSERT_TRUE(successor.has_value()) << successor.error().to_string();
  disk->reset();
  EXPECT_NE(failure_of(pieces.options).find("in use"), std::string::npos);
}

}  // namespace
}  // namespace join
