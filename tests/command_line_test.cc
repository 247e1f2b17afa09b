// SPDX-License-Identifier: MIT
// What guestio-blk says to its user before it serves.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

class CommandLineTest : public BackendTest {
 protected:
  std::vector<std::string> with(const std::string& image, const std::string& socket) {
    return {"--socket-path", socket, "--blk-file", image};
  }
};

TEST_F(CommandLineTest, HelpNamesEveryOption) {
  const Outcome outcome = run({"--help"});
  EXPECT_EQ(outcome.status, 0);
  for (const char* option :
       {"--socket-path", "--fd",          "--blk-file",    "--disk",
        "--config",      "--name",        "--read-only",   "--num-queues",
        "--serial",      "--block-size",  "--buffered",    "--bounce-limit",
        "--threads",     "--cpus",        "--poll-max-us", "--poll",
        "--on-error",    "--control",     "--ask",         "--fixed-buffers",
        "--sqpoll",      "--sqpoll-cpus", "--iopoll",      "--print-capabilities",
        "--version",     "--max-ranges"}) {
    EXPECT_NE(outcome.output.find(option), std::string::npos) << option;
  }
}

TEST_F(CommandLineTest, VersionIsOneLine) {
  const Outcome outcome = run({"--version"});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.output, "guestio-blk " GUESTIO_PROJECT_VERSION "\n");
}

TEST_F(CommandLineTest, CapabilitiesAreWhatManagementLayersRead) {
  const Outcome outcome = run({"--print-capabilities"});
  EXPECT_EQ(outcome.status, 0);
  const auto json = nlohmann::json::parse(outcome.output);
  EXPECT_EQ(json["type"], "block");
  EXPECT_EQ(json["features"], nlohmann::json({"read-only", "blk-file"}));
}

TEST_F(CommandLineTest, BadArgumentsAreOneLineAndStatusTwo) {
  expect_complaint(run({}), "--socket-path");
  expect_complaint(run({"--socket-path", socket_}), "--blk-file");
  expect_complaint(run({"--nonsense"}), "--nonsense");
  expect_complaint(run({"--socket-path", socket_, "--fd", "3", "--blk-file", image_}), "--fd");
  auto arguments = with(image_, socket_);
  arguments.insert(arguments.end(), {"--num-queues", "0"});
  expect_complaint(run(arguments), "--num-queues");
  arguments.back() = "many";
  expect_complaint(run(arguments), "--num-queues");
}

TEST_F(CommandLineTest, BadSizesAreRefused) {
  for (const auto& [option, value] :
       std::vector<std::pair<std::string, std::string>>{{"--block-size", "513"},
                                                        {"--block-size", "8192"},
                                                        {"--block-size", "x"},
                                                        {"--bounce-limit", "1"},
                                                        {"--max-ranges", "17"},
                                                        {"--threads", "0"},
                                                        {"--threads", "65"},
                                                        {"--cpus", "x"},
                                                        {"--poll", "sometimes"},
                                                        {"--fixed-buffers", "perhaps"},
                                                        {"--poll-max-us", "-1"},
                                                        {"--bounce-limit", "-1"},
                                                        {"--serial", "123456789012345678901"}}) {
    auto arguments = with(image_, socket_);
    arguments.insert(arguments.end(), {option, value});
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.status, 2) << option << " " << value << ": " << outcome.output;
    EXPECT_FALSE(std::filesystem::exists(socket_));
  }
}

TEST_F(CommandLineTest, AMissingImageIsNotMade) {
  const std::string missing = folder_.file("missing.img");
  expect_complaint(run(with(missing, socket_)), "No such file");
  EXPECT_FALSE(std::filesystem::exists(missing));
  EXPECT_FALSE(std::filesystem::exists(socket_));
}

TEST_F(CommandLineTest, ADirectoryAndADeviceOfAnotherKindAreRefused) {
  expect_complaint(run(with(folder_.path(), socket_)), "directory");
  expect_complaint(run(with("/dev/null", socket_)), "/dev/null");
}

TEST_F(CommandLineTest, ABusyImageIsRefused) {
  start();
  expect_complaint(run(with(image_, folder_.file("other"))), "busy");
  auto reader = with(image_, folder_.file("other"));
  reader.push_back("--read-only");
  expect_complaint(run(reader), "busy");
  expect_alive();
}

TEST_F(CommandLineTest, ASocketInUseIsLeftAlone) {
  start();
  expect_complaint(run(with(folder_.make_image("other.img", 4096), socket_)), "busy");
  expect_alive();
}

TEST_F(CommandLineTest, ASocketPathThatIsTooLongIsRefused) {
  expect_complaint(run(with(image_, folder_.file(std::string(120, 'x')))), "too large");
}

TEST_F(CommandLineTest, AFileAtTheSocketPathIsNotRemoved) {
  const std::string file = folder_.make_image("precious", 10);
  expect_complaint(run(with(image_, file)), "socket");
  EXPECT_EQ(std::filesystem::file_size(file), 10u);
}

TEST_F(CommandLineTest, AStaleSocketIsReplaced) {
  start();
  backend_->send_signal(SIGKILL);
  ASSERT_EQ(backend_->wait(), 128 + SIGKILL);
  ASSERT_TRUE(std::filesystem::exists(socket_));
  start();
  expect_alive();
}

TEST_F(CommandLineTest, TheSocketGoesWithTheProcess) {
  start();
  stop();
  EXPECT_FALSE(std::filesystem::exists(socket_));
}

TEST_F(CommandLineTest, AReadOnlyFileCanBeServedReadOnlyOnly) {
  ASSERT_EQ(::chmod(image_.c_str(), 0400), 0);
  start({"--read-only"});
  const auto guest = connect();
  EXPECT_EQ(guest->read(0, 512).status, 0);
  EXPECT_EQ(guest->write(0, std::vector<std::byte>(512)).status, 1);
  EXPECT_EQ(guest->flush().status, 0);
}

TEST_F(CommandLineTest, AListeningSocketIsTakenByNumber) {
  const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  socket_.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(socket.get(), 1), 0);
  backend_ = std::make_unique<testing::ChildProcess>(
      std::vector<std::string>{kBackendProgram, "--fd", std::to_string(socket.get()), "--blk-file",
                               image_},
      socket.get());
  expect_alive();
  stop();
  EXPECT_TRUE(std::filesystem::exists(socket_)) << "it is not ours to remove";
}

TEST_F(CommandLineTest, AConnectedSocketIsServedUntilItsEnd) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  UniqueFd ours(ends[0]);
  const UniqueFd theirs(ends[1]);
  testing::ChildProcess child(
      {kBackendProgram, "--fd", std::to_string(theirs.get()), "--blk-file", image_}, theirs.get());
  auto guest = testing::BlkGuest::over(std::move(ours), {});
  ASSERT_TRUE(guest.has_value());
  EXPECT_EQ((*guest)->read(0, 512).status, 0);
  guest->reset();
  ::shutdown(theirs.get(), SHUT_RDWR);
  EXPECT_EQ(child.wait(), 0) << child.output();
}

}  // namespace
}  // namespace guestio::tests
