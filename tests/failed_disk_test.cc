// SPDX-License-Identifier: MIT
// A failed disk does not affect the others and is served once it is usable.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

using FailedDiskJson = nlohmann::json;

class FailedDiskTest : public BackendTest {
 protected:
  [[nodiscard]] std::string bad_disk(const std::string& more = "") const {
    return "name=bad,socket-path=" + bad_socket_ + ",blk-file=" + bad_image_ + more;
  }
  /// One usable disk, and `bad` as the other.
  [[nodiscard]] std::vector<std::string> two_disks(const std::string& bad) const {
    return {"--disk", "name=good,socket-path=" + socket_ + ",blk-file=" + image_, "--disk", bad};
  }
  void start_two(const std::string& bad) {
    std::vector<std::string> words = two_disks(bad);
    words.insert(words.begin(), kBackendProgram);
    words.insert(words.end(), {"--control", control_});
    backend_ = std::make_unique<testing::ChildProcess>(words);
    ASSERT_TRUE(backend_->wait_for_output("ready ")) << backend_->output();
    expect_alive();
  }
  FailedDiskJson ask_about_bad() {
    const Outcome outcome = run({"--ask", control_, "info"});
    EXPECT_EQ(outcome.status, 0) << outcome.output;
    const auto info = FailedDiskJson::parse(outcome.output);
    const auto& disks = info["disks"];
    const auto found = std::ranges::find_if(
        disks, [](const FailedDiskJson& disk) { return disk["name"] == "bad"; });
    return found == disks.end() ? FailedDiskJson() : *found;
  }
  void expect_failed(const std::string& words) {
    EXPECT_TRUE(backend_->wait_for_output("disk bad: cannot be served: ")) << backend_->output();
    const auto bad = ask_about_bad();
    EXPECT_EQ(bad["state"], "failed");
    EXPECT_NE(bad["error"].get<std::string>().find(words), std::string::npos) << bad["error"];
    EXPECT_NE(backend_->output().find(words), std::string::npos) << backend_->output();
  }
  void expect_served() {
    ASSERT_TRUE(backend_->wait_for_output("disk bad: can be served now")) << backend_->output();
    auto guest = testing::BlkGuest::connect(bad_socket_, {});
    ASSERT_TRUE(guest.has_value()) << guest.error().to_string();
    EXPECT_EQ((*guest)->read(0, 4096).status, 0);
    EXPECT_EQ(ask_about_bad()["state"], "served");
  }

  std::string bad_socket_ = folder_.file("bad.sock");
  std::string bad_image_ = folder_.file("bad.img");
};

TEST_F(FailedDiskTest, AMissingImageIsServedWhenItAppears) {
  start_two(bad_disk());
  expect_failed(bad_image_ + ": open the image: No such file or directory; make it, or correct");
  EXPECT_FALSE(std::filesystem::exists(bad_socket_)) << "front-ends retry to connect";
  const Outcome resized = run({"--ask", control_, "resize", "bad"});
  EXPECT_EQ(resized.status, 1);
  EXPECT_NE(resized.output.find("disk bad: cannot be served"), std::string::npos) << resized.output;
  (void)folder_.make_image("bad.img", kImageBytes);
  expect_served();
  EXPECT_NE(backend_->output().find("may still be written"), std::string::npos)
      << "cp takes no locks: a new file is checked once more\n"
      << backend_->output();
  stop();
  EXPECT_FALSE(std::filesystem::exists(bad_socket_));
}

TEST_F(FailedDiskTest, TheRetryCommandRetriesAtOnce) {
  start_two(bad_disk());
  expect_failed("No such file");
  // Each command is an attempt, without a wait for its turn.
  const std::uint64_t before = ask_about_bad()["attempts"];
  constexpr std::uint64_t kAttempts = 40;  // at their own intervals more than ten minutes
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(120);
  while (ask_about_bad()["attempts"] < before + kAttempts) {
    ASSERT_LT(std::chrono::steady_clock::now(), until) << backend_->output();
    EXPECT_EQ(run({"--ask", control_, "retry", "bad"}).status, 0);
  }
  const std::string output = backend_->output();
  const auto first = output.find("bad: cannot be served");
  EXPECT_EQ(output.find("bad: cannot be served", first + 1), std::string::npos)
      << "a repeated failure is not logged again\n"
      << output;
  (void)folder_.make_image("bad.img", kImageBytes);
  EXPECT_EQ(run({"--ask", control_, "retry", "bad"}).status, 0);
  expect_served();
}

TEST_F(FailedDiskTest, ALockedImageIsServedOnceTheOtherProcessExits) {
  (void)folder_.make_image("bad.img", kImageBytes);
  testing::ChildProcess owner(
      {kBackendProgram, "--socket-path", folder_.file("owner"), "--blk-file", bad_image_});
  ASSERT_TRUE(owner.wait_for_output("serves ")) << owner.output();
  start_two(bad_disk());
  expect_failed("busy; end the other process that uses it");
  owner.send_signal(SIGTERM);
  ASSERT_EQ(owner.wait(), 0) << owner.output();
  expect_served();
}

TEST_F(FailedDiskTest, ASocketInUseIsServedOnceTheOtherProcessExits) {
  (void)folder_.make_image("bad.img", kImageBytes);
  testing::ChildProcess owner(
      {kBackendProgram, "--socket-path", bad_socket_, "--blk-file", "null:1G"});
  ASSERT_TRUE(owner.wait_for_output("serves ")) << owner.output();
  start_two(bad_disk());
  expect_failed(bad_socket_ + ": another process listens at the socket path: busy; end that");
  owner.send_signal(SIGTERM);
  ASSERT_EQ(owner.wait(), 0) << owner.output();
  expect_served();
}

/// A file with a lease of another process: open() stalls, as on a device or server without reply.
class HeldFile {
 public:
  explicit HeldFile(const std::string& path) : fd_(::open(path.c_str(), O_RDWR | O_CLOEXEC)) {
    std::signal(SIGIO, SIG_IGN);  // would end the holder when the file is opened
    is_held_ = ::fcntl(fd_.get(), F_SETLEASE, F_WRLCK) == 0;
  }
  HeldFile(const HeldFile&) = delete;
  HeldFile& operator=(const HeldFile&) = delete;
  ~HeldFile() { unregister(); }
  [[nodiscard]] bool is_held() const noexcept { return is_held_; }
  void unregister() noexcept {
    if (fd_) ::fcntl(fd_.get(), F_SETLEASE, F_UNLCK);
    fd_.reset();
  }

 private:
  UniqueFd fd_;
  bool is_held_ = false;
};

TEST_F(FailedDiskTest, AStalledOpenDelaysNoOtherDisk) {
  (void)folder_.make_image("bad.img", kImageBytes);
  HeldFile held(bad_image_);
  if (!held.is_held()) GTEST_SKIP() << "no leases on this file system";
  start_two(bad_disk());
  expect_failed("does not open within");
  expect_alive();
  held.unregister();
  expect_served();
}

TEST_F(FailedDiskTest, TheProcessExitsDuringAStalledOpen) {
  (void)folder_.make_image("bad.img", kImageBytes);
  const HeldFile held(bad_image_);
  if (!held.is_held()) GTEST_SKIP() << "no leases on this file system";
  start_two(bad_disk());
  expect_failed("does not open within");
  stop();
}

TEST_F(FailedDiskTest, TheProcessExitsBeforeARetryIsDue) {
  start_two(bad_disk());
  expect_failed("No such file");
  stop();
}

TEST_F(FailedDiskTest, StrictServesAllDisksOrNone) {
  std::vector<std::string> words = two_disks(bad_disk());
  words.emplace_back("--strict");
  expect_diagnostic(run(words), "guestio-blk: disk bad: cannot be served: " + bad_image_);
  EXPECT_FALSE(std::filesystem::exists(socket_));
  words = two_disks("socket-path=" + folder_.file("none/s") + ",blk-file=null:1G");
  words.emplace_back("--strict");
  expect_diagnostic(run(words), "make its folder, or correct socket-path");
  EXPECT_FALSE(std::filesystem::exists(socket_));
}

TEST_F(FailedDiskTest, WithoutAUsableDiskEachIsReportedAndTheStatusIsTwo) {
  std::filesystem::remove(image_);
  const Outcome outcome = run(two_disks(bad_disk()));
  EXPECT_EQ(outcome.status, 2) << outcome.output;
  EXPECT_EQ(std::ranges::count(outcome.output, '\n'), 2) << outcome.output;
  EXPECT_NE(outcome.output.find("disk good: cannot be served: " + image_), std::string::npos);
  EXPECT_NE(outcome.output.find("disk bad: cannot be served: " + bad_image_), std::string::npos);
}

TEST_F(FailedDiskTest, OneImageByTwoPathsIsServedTwiceOnlyReadOnly) {
  const std::string link = folder_.file("link.img");
  std::filesystem::create_symlink(image_, link);
  std::filesystem::create_hard_link(image_, bad_image_);
  for (const std::string& other : {link, bad_image_}) {
    const std::string disk = "name=bad,socket-path=" + bad_socket_ + ",blk-file=" + other;
    for (const std::string more : {"", ",read-only", ",image-lock=in-use"}) {
      const Outcome outcome = run(two_disks(disk + more));
      expect_diagnostic(outcome, "--disk 2: " + other + " is the same image as " + image_ +
                                     " of disk good (--disk 1)");
      EXPECT_NE(outcome.output.find("give both read-only"), std::string::npos) << outcome.output;
    }
    EXPECT_FALSE(std::filesystem::exists(socket_));
    testing::ChildProcess readers(
        {kBackendProgram, "--disk",
         "name=good,read-only,socket-path=" + socket_ + ",blk-file=" + image_, "--disk",
         disk + ",read-only"});
    EXPECT_TRUE(readers.wait_for_output("ready ")) << readers.output();
    EXPECT_NE(readers.output().find("bad: serves "), std::string::npos) << readers.output();
    readers.send_signal(SIGTERM);
    EXPECT_EQ(readers.wait(), 0) << readers.output();
  }
}

TEST_F(FailedDiskTest, ATakeoverIncludesFailedDisks) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  UniqueFd ours(ends[0]);
  const UniqueFd theirs(ends[1]);
  const std::string handed_image = folder_.file("handed.img");
  std::vector<std::string> words = two_disks(bad_disk(",num-queues=2"));
  words.insert(words.begin(), kBackendProgram);
  words.insert(words.end(),
               {"--control", control_, "--disk",
                "name=handed,fd=" + std::to_string(theirs.get()) + ",blk-file=" + handed_image});
  backend_ = std::make_unique<testing::ChildProcess>(words, theirs.get());
  ASSERT_TRUE(backend_->wait_for_output("ready ")) << backend_->output();
  const auto guest = connect();
  ASSERT_NE(guest, nullptr);
  take_over();
  expect_failed(bad_image_ + ": open the image: No such file");
  EXPECT_EQ(ask_about_bad()["queues"], 2);
  EXPECT_EQ(guest->read(0, 4096).status, 0);
  (void)folder_.make_image("bad.img", kImageBytes);
  (void)folder_.make_image("handed.img", kImageBytes);
  expect_served();
  const auto handed = testing::BlkGuest::from_socket(std::move(ours), {});
  ASSERT_TRUE(handed.has_value()) << backend_->output();
  EXPECT_EQ((*handed)->read(0, 512).status, 0);
}

TEST_F(FailedDiskTest, AnInheritedSocketSurvivesAnOpenDuringATakeover) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  UniqueFd ours(ends[0]);
  UniqueFd theirs(ends[1]);
  (void)folder_.make_image("bad.img", kImageBytes);
  HeldFile held(bad_image_);
  if (!held.is_held()) GTEST_SKIP() << "no leases on this file system";
  std::vector<std::string> words =
      two_disks("name=bad,fd=" + std::to_string(theirs.get()) + ",blk-file=" + bad_image_);
  words.insert(words.begin(), kBackendProgram);
  words.insert(words.end(), {"--control", control_});
  backend_ = std::make_unique<testing::ChildProcess>(words, theirs.get());
  theirs.reset();
  ASSERT_TRUE(backend_->wait_for_output("ready ")) << backend_->output();
  expect_failed("does not open within");
  UniqueFd other(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  std::ranges::copy(control_, address.sun_path);
  ASSERT_EQ(::connect(other.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  const std::string line = "{\"command\":\"takeover\",\"version\":1}\n";
  ASSERT_EQ(::send(other.get(), line.data(), line.size(), MSG_NOSIGNAL), std::ssize(line));
  ASSERT_TRUE(backend_->wait_for_output("prepares to take over")) << backend_->output();
  // The attempt in flight now gets its image and its socket, and must not serve them.
  held.unregister();
  for (int asked = 0; asked < 10; ++asked) EXPECT_EQ(ask_about_bad()["state"], "failed");
  other.reset();
  ASSERT_TRUE(backend_->wait_for_output("takeover failed, this process resumes"))
      << backend_->output();
  ASSERT_TRUE(backend_->wait_for_output("disk bad: can be served now")) << backend_->output();
  const auto guest = testing::BlkGuest::from_socket(std::move(ours), {});
  ASSERT_TRUE(guest.has_value()) << guest.error().to_string() << backend_->output();
  EXPECT_EQ((*guest)->read(0, 512).status, 0);
}

}  // namespace
}  // namespace guestio::tests
