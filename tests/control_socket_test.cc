// SPDX-License-Identifier: MIT
// Commands at the control socket of a running guestio-blk, and their replies.
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

using Json = nlohmann::json;

class ControlSocketTest : public BackendTest {
 protected:
  void start_with_control(std::vector<std::string> more = {}) {
    more.insert(more.end(), {"--control", control_});
    start(more);
  }
  /// The result of the command.
  Json ask(std::vector<std::string> words) {
    words.insert(words.begin(), {"--ask", control_});
    const Outcome outcome = run(words);
    EXPECT_EQ(outcome.status, 0) << outcome.output;
    auto json = Json::parse(outcome.output, nullptr, false);
    EXPECT_FALSE(json.is_discarded()) << outcome.output;
    return json;
  }
  UniqueFd connect_socket() {
    UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    control_.copy(address.sun_path, sizeof address.sun_path - 1);
    EXPECT_EQ(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address),
              0);
    const timeval limit{.tv_sec = 60, .tv_usec = 0};
    ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    return socket;
  }
  static void send_line(const UniqueFd& socket, const std::string& text) {
    (void)!::send(socket.get(), text.data(), text.size(), MSG_NOSIGNAL);
  }
  /// Reads until `lines` lines have arrived or the connection ends.
  static std::string receive(const UniqueFd& socket, int lines) {
    std::string text;
    char byte = 0;
    while (lines > 0 && ::recv(socket.get(), &byte, 1, 0) == 1) {
      text.push_back(byte);
      if (byte == '\n') --lines;
    }
    return text;
  }
  static bool is_ended(const UniqueFd& socket) {
    char byte = 0;
    return ::recv(socket.get(), &byte, 1, 0) <= 0 && errno != EAGAIN;
  }
};

TEST_F(ControlSocketTest, StatisticsCountTheGuestsRequests) {
  start_with_control();
  const auto guest = connect();
  const std::vector<std::byte> data(4096);
  ASSERT_EQ(guest->write(8, data).status, 0);
  ASSERT_EQ(guest->read(8, 4096).status, 0);
  ASSERT_EQ(guest->read(16, 8192).status, 0);
  ASSERT_EQ(guest->read(kImageBytes / 512, 512).status, 1);
  ASSERT_EQ(guest->flush().status, 0);
  ASSERT_EQ(guest->perform(testing::BlkGuest::Type::kIn, 0, {}, 4096, 1).status, 0);
  // Requests found by polling need no kick; a kick is counted in its own time.
  ASSERT_TRUE(guest->queue().kick());
  Json all;
  EXPECT_TRUE(wait_until([&] {
    all = ask({"statistics"});
    return all["disks"][0]["kicks"] != 0;
  }));
  const Json& disk = all["disks"][0];
  EXPECT_EQ(disk["name"], "disk0");
  EXPECT_EQ(disk["requests"]["read"], Json({{"requests", 4}, {"bytes", 16384}, {"errors", 1}}));
  EXPECT_EQ(disk["requests"]["write"], Json({{"requests", 1}, {"bytes", 4096}, {"errors", 0}}));
  EXPECT_EQ(disk["requests"]["flush"]["requests"], 1);
  EXPECT_EQ(disk["direct_bytes"], 16384);
  EXPECT_EQ(disk["bounced_bytes"]["total"], 4096);
  EXPECT_EQ(disk["queues"][0]["requests"], disk["requests"]);
  EXPECT_EQ(disk["latency"]["samples"], 1) << "one of the first 64 is timed";
  EXPECT_GT(disk["kicks"], 0);
  EXPECT_GT(disk["calls"], 0);
  EXPECT_EQ(all["threads"][0]["requests"], 6);
  EXPECT_GT(all["threads"][0]["system_calls_per_request"], 0);
}

TEST_F(ControlSocketTest, QueuesShareThreadsWhereProcessorsAreFew) {
  const auto threads_of = [&](const std::vector<std::string>& wrapper,
                              std::vector<std::string> options) {
    options.insert(options.end(), {"--control", control_, "--num-queues", "2"});
    start_under(wrapper, options);
    const auto threads = ask({"info"})["threads"].get<int>();
    EXPECT_EQ(connect({.queues = 2})->read(0, 4096).status, 0);
    stop();
    return threads;
  };
  const std::vector<int> processors = allowed_processors();
  const std::string one = std::to_string(processors.front());
  EXPECT_EQ(threads_of({"/usr/bin/taskset", "-c", one}, {}), 1);
  EXPECT_EQ(threads_of({}, {"--cpus", one}), 1);
  EXPECT_EQ(threads_of({}, {"--cpus", one, "--threads", "2"}), 2);
  EXPECT_EQ(threads_of({}, {}), std::min<int>(2, static_cast<int>(processors.size())));
}

TEST_F(ControlSocketTest, InfoShowsTheDisksAndTheirFrontEnds) {
  start_with_control({"--num-queues", "2", "--name", "one"});
  EXPECT_EQ(ask({"info"})["disks"][0]["connected"], false);
  const auto guest = connect();
  const Json info = ask({"info"});
  EXPECT_EQ(info["pid"], backend_->pid());
  const Json& disk = info["disks"][0];
  EXPECT_EQ(disk["name"], "one");
  EXPECT_EQ(disk["image"], image_);
  EXPECT_EQ(disk["socket"], socket_);
  EXPECT_EQ(disk["size"], kImageBytes);
  EXPECT_EQ(disk["queues"], 2);
  EXPECT_EQ(disk["connected"], true);
}

TEST_F(ControlSocketTest, AGrownFileIsUsedAfterResize) {
  start_with_control();
  const auto guest = connect();
  std::filesystem::resize_file(image_, 2 * kImageBytes);
  EXPECT_EQ(guest->read(kImageBytes / 512, 4096).status, 1) << "not before";
  const Json resized = ask({"resize", "disk0"});
  EXPECT_EQ(resized["size_before"], kImageBytes);
  EXPECT_EQ(resized["size"], 2 * kImageBytes);
  EXPECT_EQ(resized["guest_was_told"], false) << "this front-end has no back channel";
  EXPECT_EQ(guest->config().capacity, 2 * kImageBytes / 512);
  EXPECT_EQ(guest->write(kImageBytes / 512, std::vector<std::byte>(4096)).status, 0);
  EXPECT_EQ(guest->read(2 * kImageBytes / 512, 512).status, 1);
}

TEST_F(ControlSocketTest, ResizeRejectsShrunkFilesAndUnknownDisks) {
  start_with_control();
  std::filesystem::resize_file(image_, kImageBytes / 2);
  const auto expect_rejected = [&](const std::string& disk, const std::string& words) {
    const Outcome outcome = run({"--ask", control_, "resize", disk});
    EXPECT_EQ(outcome.status, 1);
    EXPECT_NE(outcome.output.find(words), std::string::npos) << outcome.output;
  };
  expect_rejected("disk0", "shrank");
  expect_rejected("disk1", "no disk disk1");
  EXPECT_EQ(ask({"info"})["disks"][0]["size"], kImageBytes);
}

TEST_F(ControlSocketTest, MalformedInputGetsOneErrorAndEndsItsConnection) {
  start_with_control();
  for (const std::string text : {"hello\n", "[]\n", "{}\n", "{\"command\":1}\n", "\n", "{\n"}) {
    const UniqueFd socket = connect_socket();
    send_line(socket, text + "{\"command\":\"info\"}\n");
    EXPECT_NE(receive(socket, 1).find("error"), std::string::npos) << text;
    EXPECT_TRUE(is_ended(socket)) << text;
  }
  const UniqueFd endless = connect_socket();
  send_line(endless, std::string(100'000, 'x'));
  EXPECT_NE(receive(endless, 1).find("too long"), std::string::npos);
  expect_alive();
}

TEST_F(ControlSocketTest, RejectedCommandsKeepTheConnection) {
  start_with_control();
  const UniqueFd socket = connect_socket();
  send_line(socket, "{\"command\":\"dance\"}\n{\"command\":\"resize\",\"disk\":7}\n");
  const std::string refusals = receive(socket, 2);
  EXPECT_NE(refusals.find("dance"), std::string::npos) << refusals;
  send_line(socket, "{\"command\":");
  send_line(socket, "\"help\"}\n");
  EXPECT_NE(receive(socket, 1).find("statistics"), std::string::npos) << "in two segments";
}

TEST_F(ControlSocketTest, IdleClientsDoNotBlockOthers) {
  start_with_control();
  std::vector<UniqueFd> sockets;
  constexpr int kMaxClients = 16;
  for (int i = 0; i < kMaxClients; ++i) {
    sockets.push_back(connect_socket());
    send_line(sockets.back(), "{\"command\":\"help\"}\n");
    ASSERT_FALSE(receive(sockets.back(), 1).empty());
  }
  // The first client has been idle longest.
  send_line(sockets[0], "{\"command\":\"help\"}\n");
  ASSERT_FALSE(receive(sockets[0], 1).empty());
  EXPECT_EQ(ask({"info"})["pid"], backend_->pid());
  EXPECT_TRUE(is_ended(sockets[1])) << "the client idle longest is dropped";
  for (const int kept : {0, 2, kMaxClients - 1}) {
    send_line(sockets[static_cast<std::size_t>(kept)], "{\"command\":\"help\"}\n");
    EXPECT_FALSE(receive(sockets[static_cast<std::size_t>(kept)], 1).empty()) << kept;
  }
  // The same with clients that send nothing at all.
  std::vector<UniqueFd> silent;
  for (int i = 0; i < 3 * kMaxClients; ++i) silent.push_back(connect_socket());
  EXPECT_EQ(ask({"info"})["pid"], backend_->pid());
  sockets.clear();
  stop();
}

TEST_F(ControlSocketTest, UnknownFieldsOfACommandAreRejectedByName) {
  struct Case {
    std::string line;
    std::vector<std::string> words;
  };
  const std::vector<Case> cases = {
      {R"({"command":"resize","disc":"disk0"})",
       {"resize takes no field \"disc\"", "did you mean disk?"}},
      {R"({"command":"info","disk":"disk0"})", {"info takes no field \"disk\"", "none at all"}},
      {R"({"command":"help","x":1})", {"help takes no field \"x\""}},
      {R"({"command":"retry","disk":"disk0","force":true})", {"retry takes no field \"force\""}},
      {R"({"command":"resise"})", {"no command resise", "did you mean resize?", "help"}},
      {R"({"command":"dance"})", {"no command dance: help lists them"}},
      {R"({"command":"resize","disk":"disk1"})",
       {"no disk disk1", "did you mean disk0?", "info lists"}},
      {R"({"command":"resize","disk":7})", {"a disk's name is a string"}},
  };
  start_with_control();
  const UniqueFd socket = connect_socket();
  for (const Case& one : cases) {
    send_line(socket, one.line + "\n");
    const auto answer = Json::parse(receive(socket, 1), nullptr, false);
    ASSERT_TRUE(answer.is_object() && answer.contains("error")) << one.line << answer;
    const auto text = answer["error"].get<std::string>();
    for (const std::string& word : one.words) {
      EXPECT_NE(text.find(word), std::string::npos) << one.line << ": " << text;
    }
  }
  send_line(socket, "{\"command\":\"takeover\",\"version\":1,\"quick\":true}\n");
  EXPECT_NE(receive(socket, 1).find("takeover takes no field"), std::string::npos);
  const UniqueFd other = connect_socket();
  send_line(other, "resize disk0\n");
  EXPECT_NE(receive(other, 1).find("not JSON"), std::string::npos);
  expect_alive();
}

TEST_F(ControlSocketTest, AskExitsWithOneWhenRejectedAndWithTwoWithoutAServer) {
  start_with_control();
  EXPECT_EQ(run({"--ask", control_, "help"}).status, 0);
  EXPECT_EQ(run({"--ask", control_, "dance"}).status, 1);
  EXPECT_EQ(run({"--ask", folder_.file("none"), "help"}).status, 2);
  EXPECT_EQ(run({"--ask", control_}).status, 2) << "no command";
  // It accepts connections and never replies: the listener is no control socket.
  const UniqueFd mute(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const std::string path = folder_.file("mute");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(mute.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(mute.get(), 1), 0);
  testing::ChildProcess asking({kBackendProgram, "--ask", path, "help"});
  UniqueFd taken(::accept(mute.get(), nullptr, nullptr));
  char byte = 0;
  EXPECT_EQ(::recv(taken.get(), &byte, 1, 0), 1);
  taken.reset();
  EXPECT_EQ(asking.wait(), 1) << asking.output();
}

TEST_F(ControlSocketTest, TheSocketIsForItsOwnerOnlyAndRemovedOnExit) {
  start_with_control();
  struct stat status{};
  ASSERT_EQ(::stat(control_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600U);
  backend_->send_signal(SIGKILL);
  ASSERT_EQ(backend_->wait(), 128 + SIGKILL);
  start_with_control();
  EXPECT_EQ(ask({"info"})["pid"], backend_->pid()) << "a stale socket is replaced";
  stop();
  EXPECT_FALSE(std::filesystem::exists(control_));
}

TEST_F(ControlSocketTest, WithoutTheOptionThereIsNoControlSocket) {
  const Outcome outcome = run({"--ask", control_, "info"});
  expect_diagnostic(outcome, "No such file");
  expect_diagnostic(run({"--socket-path", socket_, "--blk-file", image_, "--control", socket_}),
                    "also that of the control socket");
  expect_diagnostic(run({"--socket-path", socket_, "--blk-file", image_, "--control", image_}),
                    "not a socket");
  EXPECT_FALSE(std::filesystem::exists(socket_));
}

}  // namespace
}  // namespace guestio::tests
