// SPDX-License-Identifier: MIT
// Programs started with standard input, output or error closed.
#include <fcntl.h>
#include <sys/socket.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

/// Starts a program with descriptor 0, 1 or 2 closed for each bit set in `closed`.
std::vector<std::string> with_closed(unsigned closed, std::vector<std::string> words) {
  std::string line = "exec \"$@\"";
  for (const int fd : {0, 1, 2}) {
    if ((closed >> fd & 1U) != 0) line += " " + std::to_string(fd) + ">&-";
  }
  words.insert(words.begin(), {"/bin/sh", "-c", line, "sh"});
  return words;
}

std::string descriptor_of(const testing::ChildProcess& process, int fd) {
  std::error_code error;
  return std::filesystem::read_symlink(
             "/proc/" + std::to_string(process.pid()) + "/fd/" + std::to_string(fd), error)
      .string();
}

class ClosedDescriptorsTest : public BackendTest, public ::testing::WithParamInterface<unsigned> {
 protected:
  void start_with_closed(const std::vector<std::string>& words) {
    backend_ = std::make_unique<testing::ChildProcess>(with_closed(GetParam(), words));
  }
  /// Waits for a backend without a descriptor to report its readiness on.
  std::unique_ptr<testing::BlkGuest> connect_once_ready() {
    auto guest = testing::BlkGuest::connect(socket_);
    while (!guest && backend_->is_running()) guest = testing::BlkGuest::connect(socket_);
    EXPECT_TRUE(guest.has_value()) << backend_->output();
    return guest ? std::move(*guest) : nullptr;
  }
  void expect_null_device_where_closed() {
    for (const int fd : {0, 1, 2}) {
      if ((GetParam() >> fd & 1U) != 0) {
        EXPECT_EQ(descriptor_of(*backend_, fd), "/dev/null");
      }
    }
  }
  /// Writes the whole image while lines are logged.
  static void fill(testing::BlkGuest& guest) {
    for (std::uint64_t sector = 0; sector < kImageBytes / 512; sector += kPart / 512) {
      EXPECT_EQ(guest.write(sector, std::vector<std::byte>(kPart, std::byte{0x5a})).status, 0);
    }
    EXPECT_EQ(guest.read(kImageBytes, 512).status, 1) << "beyond the end: one log line";
    EXPECT_EQ(guest.flush().status, 0);
  }
  void expect_filled() {
    std::ifstream file(image_, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    EXPECT_EQ(bytes.size(), kImageBytes);
    EXPECT_EQ(bytes.find_first_not_of('\x5a'), std::string::npos);
  }

  static constexpr std::size_t kPart = std::size_t{1} << 20;
};

TEST_P(ClosedDescriptorsTest, TheDiskHoldsTheGuestsDataAndNoLogLine) {
  start_with_closed({kBackendProgram, "--socket-path", socket_, "--blk-file", image_, "--control",
                     control_, "--verbose"});
  auto guest = connect_once_ready();
  ASSERT_NE(guest, nullptr);
  expect_null_device_where_closed();
  fill(*guest);
  guest.reset();
  stop();
  expect_filled();
}

TEST_P(ClosedDescriptorsTest, TakenOverDescriptorsGetOtherNumbers) {
  start({"--control", control_});
  const auto before = std::move(backend_);
  auto connected = testing::BlkGuest::connect(socket_);
  ASSERT_TRUE(connected.has_value()) << before->output();
  const auto guest = std::move(*connected);
  start_with_closed({kBackendProgram, "--takeover", control_, "--verbose"});
  EXPECT_EQ(before->wait(), 0) << before->output();
  EXPECT_NE(before->output().find("has taken over"), std::string::npos) << before->output();
  expect_null_device_where_closed();
  fill(*guest);
  stop();
  expect_filled();
}

TEST_P(ClosedDescriptorsTest, TheLoadProgramTalksToItsBackendAlone) {
  start();
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{kLoadProgram, "info", "--socket-path", socket_},
        {kLoadProgram, "run", "--socket-path", socket_, "--runtime", "0.1"},
        {kLoadProgram, "verify", "--socket-path", socket_, "--ops", "100", "--size", "1M"}}) {
    testing::ChildProcess load(with_closed(GetParam(), words));
    EXPECT_EQ(load.wait(), 0) << words[1] << ": " << load.output();
  }
  stop();
  EXPECT_EQ(backend_->output().find("warning"), std::string::npos) << backend_->output();
}

INSTANTIATE_TEST_SUITE_P(EachCombination, ClosedDescriptorsTest, ::testing::Range(0U, 8U));

class DescriptorByNumberTest : public BackendTest {
 protected:
  Outcome serve(const std::string& fd) { return run({"--fd", fd, "--blk-file", image_}); }
};

TEST_F(DescriptorByNumberTest, StandardDescriptorsAreRejectedAsSockets) {
  for (const char* fd : {"0", "1", "2"}) expect_diagnostic(serve(fd), "--fd");
}

// The first descriptor opened gets the lowest number and would be taken for the socket.
TEST_F(DescriptorByNumberTest, ADescriptorClosedAtStartIsRejectedByName) {
  for (int fd = 3; fd < 13; ++fd) {
    // The parent of this test may have left one open.
    (void)::fcntl(fd, F_SETFD, FD_CLOEXEC);
    const Outcome outcome = serve(std::to_string(fd));
    expect_diagnostic(outcome, "--fd " + std::to_string(fd));
    EXPECT_NE(outcome.output.find("Bad file descriptor"), std::string::npos) << outcome.output;
  }
}

TEST_F(DescriptorByNumberTest, ADescriptorOtherThanASocketIsRejectedByName) {
  const UniqueFd file(::open(image_.c_str(), O_RDONLY | O_CLOEXEC));
  testing::ChildProcess child(
      {kBackendProgram, "--fd", std::to_string(file.get()), "--blk-file", image_}, file.get());
  const auto status = child.wait();
  expect_diagnostic({status.value_or(-1), child.output()}, "Socket operation on non-socket");
}

}  // namespace
}  // namespace guestio::tests
