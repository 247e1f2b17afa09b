// SPDX-License-Identifier: MIT
// One guestio-blk takes over from another (--takeover), unnoticed by the guest.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

using Json = nlohmann::json;
using Words = std::vector<std::string>;

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  return address;
}

UniqueFd connect_control(const std::string& path) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_un address = address_of(path);
  EXPECT_EQ(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address),
            0);
  const timeval limit{.tv_sec = 60, .tv_usec = 0};
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  return socket;
}

void send_line(const UniqueFd& socket, const std::string& line) {
  const std::string text = line + "\n";
  (void)!::send(socket.get(), text.data(), text.size(), MSG_NOSIGNAL);
}

/// Reads one line, without its descriptors.
std::string receive_line(const UniqueFd& socket) {
  std::string text;
  char byte = 0;
  while (::recv(socket.get(), &byte, 1, 0) == 1 && byte != '\n') text.push_back(byte);
  return text;
}

/// Sends one line with a descriptor.
void send_line_with_fd(const UniqueFd& socket, const std::string& line, int fd) {
  std::string text = line + "\n";
  iovec piece{.iov_base = text.data(), .iov_len = text.size()};
  alignas(cmsghdr) char room[CMSG_SPACE(sizeof fd)] = {};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = room;
  message.msg_controllen = sizeof room;
  cmsghdr* const rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
  EXPECT_EQ(::sendmsg(socket.get(), &message, MSG_NOSIGNAL), std::ssize(text));
}

class TakeoverTest : public BackendTest {
 protected:
  void start_with_control(Words more = {}) {
    more.insert(more.end(), {"--control", control_});
    start(more);
  }
  /// Sends the lines of a receiver one by one and disconnects after the last. Returns false when
  /// the sender did not quiesce in time, or had not resumed after the last attempt.
  bool abort_after(const Words& lines) {
    const UniqueFd socket = connect_control(control_);
    send_line(socket, R"({"command":"takeover","version":1})");
    for (const std::string& line : lines) {
      const std::string answer = receive_line(socket);
      if (answer.find("\"disks\"") == std::string::npos) return false;
      send_line(socket, line);
    }
    return !lines.empty() || receive_line(socket).find("\"disks\"") != std::string::npos;
  }
  Json ask(const std::string& command) {
    const Outcome outcome = run({"--ask", control_, command});
    EXPECT_EQ(outcome.status, 0) << outcome.output;
    return Json::parse(outcome.output, nullptr, false);
  }
};

struct LoadKind {
  const char* name;
  Words load = {};    // options of guestio-load
  Words server = {};  // options of guestio-blk
};

class TakeoverUnderLoadTest : public TakeoverTest,
                              public ::testing::WithParamInterface<LoadKind> {};

TEST_P(TakeoverUnderLoadTest, NoRequestIsLostOrCompletedTwice) {
  Words options = GetParam().server;
  options.insert(options.end(), {"--num-queues", "2"});
  start_with_control(options);
  Words words = {kLoadProgram,    "verify",
                 "--socket-path", socket_,
                 "--numjobs",     "2",
                 "--iodepth",     "32",
                 "--timeout",     "150",
                 "--seed",        "5",
                 "--ops",         operations(60000)};
  words.insert(words.end(), GetParam().load.begin(), GetParam().load.end());
  testing::ChildProcess load(words);
  // Once for each twelfth of the load, so that some is left after the last takeover.
  const std::uint64_t part = std::stoul(operations(60000)) / 12;
  int takeovers = 0;
  for (; takeovers < 5 && !HasFatalFailure(); ++takeovers) {
    const std::uint64_t before = takeovers == 0 ? 0 : requests_done();
    (void)wait_until([&] { return !load.is_running() || requests_done() >= before + part; });
    if (!load.is_running()) break;
    take_over();
  }
  // The progress of a fast machine between the queries varies, but not that much.
  EXPECT_GE(takeovers, 2);
  EXPECT_EQ(load.wait(std::chrono::seconds(200)), 0) << load.output() << backend_->output();
  EXPECT_EQ(load.output().find("reconnects:"), std::string::npos) << "the load did not notice";
  stop();
  EXPECT_FALSE(std::filesystem::exists(socket_));
  EXPECT_FALSE(std::filesystem::exists(control_));
}

INSTANTIATE_TEST_SUITE_P(Rings, TakeoverUnderLoadTest,
                         ::testing::Values(LoadKind{"Split"}, LoadKind{"Packed", {"--packed"}},
                                           LoadKind{"Limited", {}, {"--iops-total", "20000"}}),
                         [](const auto& instance) { return instance.param.name; });

TEST_F(TakeoverTest, AnIdleFrontEndStaysConnectedAndWaitingOnesAreServedNext) {
  start_with_control({"--threads", "1", "--poll", "fixed", "--verbose"});
  auto guest = connect();
  const std::vector<std::byte> data(4096, std::byte{7});
  ASSERT_EQ(guest->write(8, data).status, 0);
  const UniqueFd in_line = connect_control(socket_);
  take_over();
  EXPECT_EQ(guest->read(8, 4096).data, data);
  EXPECT_EQ(guest->flush().status, 0);
  guest.reset();
  auto next =
      testing::BlkGuest::from_socket(UniqueFd(::fcntl(in_line.get(), F_DUPFD_CLOEXEC, 0)), {});
  ASSERT_TRUE(next.has_value()) << next.error().to_string() << backend_->output();
  EXPECT_EQ((*next)->read(8, 4096).data, data);
  EXPECT_EQ((*next)->read(8, 4096).status, 0);
}

TEST_F(TakeoverTest, APartialMessageIsCompletedAfterwards) {
  start_with_control();
  const UniqueFd socket = connect_control(socket_);
  const vhost::MessageHeader question{1, vhost::kMessageVersion, 0};
  const auto bytes = std::as_bytes(std::span(&question, 1));
  ASSERT_EQ(::send(socket.get(), bytes.data(), 5, MSG_NOSIGNAL), 5);
  ASSERT_TRUE(backend_->wait_for_output("front-end connected"));
  take_over();
  take_over();
  ASSERT_EQ(::send(socket.get(), bytes.data() + 5, bytes.size() - 5, MSG_NOSIGNAL), 7);
  std::array<std::byte, 20> answer{};
  EXPECT_EQ(::recv(socket.get(), answer.data(), answer.size(), MSG_WAITALL), 20);
}

TEST_F(TakeoverTest, SettingsOfGuestAndOperatorPersist) {
  start_with_control({"--name", "one", "--num-queues", "3", "--serial", "mine", "--block-size",
                      "4096", "--threads", "2"});
  {
    const auto guest = connect();
    const std::byte off{0};
    const auto place = static_cast<std::uint32_t>(offsetof(virtio::blk::Config, writeback));
    ASSERT_TRUE(guest->frontend().set_config(place, std::span(&off, 1), 0));
  }
  std::filesystem::rename(image_, image_ + ".moved");
  take_over();
  take_over({"--threads", "1"});
  const Json info = ask("info");
  EXPECT_EQ(info["pid"], backend_->pid());
  EXPECT_EQ(info["threads"], 1);
  EXPECT_EQ(info["disks"][0]["name"], "one");
  const auto guest = connect();
  EXPECT_EQ(guest->config().writeback, 0) << "set before the takeover";
  EXPECT_EQ(guest->config().num_queues, 3);
  EXPECT_EQ(guest->config().blk_size, 4096U);
  const auto id = guest->perform(testing::BlkGuest::Type::kGetId, 0, {}, 20).data;
  EXPECT_EQ(std::memcmp(id.data(), "mine", 5), 0);
  EXPECT_EQ(guest->read(0, 4096).status, 0) << "a renamed image is the same image";
}

/// The request is in the in-flight record and in no process.
TEST_F(TakeoverTest, AHeldRequestIsCompletedByTheReceiver) {
  start_with_control({"--on-error", "hold"});
  // The disk's fault: the old process may write nothing beyond this size.
  const rlimit limit{.rlim_cur = 1 << 20, .rlim_max = RLIM_INFINITY};
  ASSERT_EQ(::prlimit(backend_->pid(), RLIMIT_FSIZE, &limit, nullptr), 0);
  const auto guest = connect({.protocol = vhost::kProtocolMq | vhost::kProtocolConfig |
                                          vhost::kProtocolReplyAck | vhost::kProtocolInflightShmfd,
                              .has_inflight_record = true});
  ASSERT_NE(guest, nullptr);
  constexpr std::uint64_t kSector = 4096;
  const vhost::SharedRange memory = guest->scratch();
  const virtio::blk::RequestHeader header{virtio::blk::RequestType::kOut, 0, kSector};
  std::memcpy(memory.host, &header, sizeof header);
  std::fill_n(memory.host + 4096, 4096, std::byte{7});
  memory.host[64] = std::byte{0xff};
  using virtio::Direction;
  const std::array chain = {
      virtio::DriverSegment{memory.gpa, sizeof header, Direction::kReadable},
      virtio::DriverSegment{memory.gpa.plus_unchecked(4096), 4096, Direction::kReadable},
      virtio::DriverSegment{memory.gpa.plus_unchecked(64), 1, Direction::kWritable}};
  ASSERT_TRUE(guest->queue().ring().add(chain));
  ASSERT_TRUE(guest->queue().ring().publish());
  ASSERT_TRUE(guest->queue().kick());
  ASSERT_TRUE(backend_->wait_for_output("requests held pending retry", std::chrono::seconds(60)));
  take_over();
  EXPECT_EQ(guest->wait_for_used(0, std::chrono::seconds(60)), 1U) << backend_->output();
  EXPECT_EQ(memory.host[64], std::byte{0});
  EXPECT_EQ(guest->read(kSector, 4096).data, std::vector<std::byte>(4096, std::byte{7}));
}

TEST_F(TakeoverTest, SeveralDisksAreHandedOverTogether) {
  const std::string shared = folder_.make_image("shared.img", kImageBytes);
  const auto disk = [&](const std::string& name, const std::string& image) {
    return "name=" + name + ",socket-path=" + folder_.file(name) + ",blk-file=" + image;
  };
  backend_ = std::make_unique<testing::ChildProcess>(
      Words{kBackendProgram, "--control", control_, "--disk", disk("one", image_), "--disk",
            disk("two", shared) + ",read-only", "--disk", disk("three", shared) + ",read-only",
            "--disk", disk("null", "null:1G")});
  ASSERT_TRUE(backend_->wait_for_output("null: serves")) << backend_->output();
  const auto one = testing::BlkGuest::connect(folder_.file("one"),
                                              {.features = ~std::uint64_t{0}, .queue_size = 100});
  const auto two = testing::BlkGuest::connect(folder_.file("two"));
  ASSERT_TRUE(one.has_value() && two.has_value());
  take_over();
  const std::vector<std::byte> data(4096, std::byte{9});
  EXPECT_EQ((*one)->write(16, data).status, 0) << "a packed ring";
  EXPECT_EQ((*one)->read(16, 4096).data, data);
  EXPECT_EQ((*two)->write(16, data).status, 1) << "read-only";
  EXPECT_EQ((*two)->read(16, 4096).status, 0);
  for (const char* const name : {"three", "null"}) {
    const auto late = testing::BlkGuest::connect(folder_.file(name));
    ASSERT_TRUE(late.has_value()) << name;
    EXPECT_EQ((*late)->read(0, 512).status, 0) << name;
  }
}

TEST_F(TakeoverTest, TheImageStaysLockedThroughout) {
  start_with_control();
  // Each tries the locks continuously for a second.
  for (int i = 0; i < 2; ++i) {
    testing::ChildProcess rival(
        {kBackendProgram, "--socket-path", folder_.file("rival"), "--blk-file", image_});
    for (int turn = 0; turn < 4; ++turn) take_over();
    EXPECT_EQ(rival.wait(), 2) << rival.output();
    EXPECT_NE(rival.output().find("in use"), std::string::npos) << rival.output();
  }
}

/// The last line sent by a receiver that aborts.
TEST_F(TakeoverTest, AnAbortedOneChangesNothing) {
  start_with_control();
  const auto guest = connect();
  const std::vector<Words> attempts = {{},
                                       {R"({"ready":true})"},
                                       {R"({"ready":true})", R"({"error":"it is broken"})"},
                                       {R"({"ready":true})", R"({"prepared"})"},
                                       {R"({"no":true})"},
                                       {"nonsense"},
                                       {std::string(100'000, ' ')}};
  for (std::size_t i = 0; i < attempts.size(); ++i) {
    EXPECT_TRUE(wait_until([&] { return abort_after(attempts[i]); }))
        << i << ": " << backend_->output();
    EXPECT_EQ(guest->write(8 * i, std::vector<std::byte>(4096)).status, 0) << i;
  }
  ASSERT_TRUE(backend_->wait_for_output("it is broken")) << backend_->output();
  take_over();
  EXPECT_EQ(guest->read(0, 4096).status, 0);
}

TEST_F(TakeoverTest, AStalledReceiverDelaysTheGuestForALimitedTime) {
  start_with_control();
  const auto guest = connect();
  const UniqueFd socket = connect_control(control_);
  send_line(socket, R"({"command":"takeover","version":1})");
  EXPECT_FALSE(receive_line(socket).empty());
  const UniqueFd second = connect_control(control_);
  send_line(second, R"({"command":"takeover","version":1})");
  EXPECT_NE(receive_line(second).find("under way"), std::string::npos);
  EXPECT_EQ(guest->read(0, 4096).status, 0);
  send_line(socket, R"({"ready":true})");
  std::string answer = receive_line(socket);
  EXPECT_FALSE(answer.empty());
  EXPECT_EQ(guest->read(0, 4096).status, 0);
  // Sent at once by a sender that could not quiesce in time.
  if (answer.find("\"disks\"") != std::string::npos) answer = receive_line(socket);
  EXPECT_NE(answer.find("error"), std::string::npos);
}

TEST_F(TakeoverTest, AnotherVersionIsRefusedInOneLine) {
  start_with_control();
  for (const std::string version : {"0", "2", "\"1\"", "-1", "null", "[1]"}) {
    const UniqueFd socket = connect_control(control_);
    send_line(socket, R"({"command":"takeover","version":)" + version + "}");
    EXPECT_NE(receive_line(socket).find("version 1"), std::string::npos) << version;
  }
  expect_alive();
}

/// A version without support for failed disks would serve without them.
TEST_F(TakeoverTest, FailedDisksAreSentInAReplyThatOlderVersionsReject) {
  const auto answered_version = [&] {
    const UniqueFd socket = connect_control(control_);
    send_line(socket, R"({"command":"takeover","version":1})");
    const Json answer = Json::parse(receive_line(socket), nullptr, false);
    return answer.is_object() ? answer.value("version", 0) : 0;
  };
  start_with_control();
  EXPECT_EQ(answered_version(), 1);
  stop();
  backend_ = std::make_unique<testing::ChildProcess>(Words{
      kBackendProgram, "--control", control_, "--disk",
      "name=good,socket-path=" + socket_ + ",blk-file=" + image_, "--disk",
      "name=bad,socket-path=" + folder_.file("bad.sock") + ",blk-file=" + folder_.file("bad.img")});
  ASSERT_TRUE(backend_->wait_for_output("ready ")) << backend_->output();
  EXPECT_EQ(answered_version(), 2);
}

TEST_F(TakeoverTest, FailuresAreReportedInOneLine) {
  const auto refused = [&](const Words& words, int status, const std::string& text) {
    const Outcome outcome = run(words);
    EXPECT_EQ(outcome.status, status) << outcome.output;
    EXPECT_EQ(std::ranges::count(outcome.output, '\n'), 1) << outcome.output;
    EXPECT_NE(outcome.output.find(text), std::string::npos) << outcome.output;
  };
  start();
  refused({"--takeover", control_}, 2, "--control");
  refused({"--takeover", socket_}, 1, "");
  for (const Words& more : {Words{"--blk-file", image_}, Words{"--read-only"},
                            Words{"--control", "x"}, Words{"--disk", "fd=1"}}) {
    Words words = {"--takeover", control_};
    words.insert(words.end(), more.begin(), more.end());
    refused(words, 2, more.front() + ": does not go with --takeover");
  }
  expect_alive();
}

/// A process that pretends to be a guestio-blk.
TEST_F(TakeoverTest, MalformedMessagesOfTheOtherProcessAreRejected) {
  const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_un address = address_of(control_);
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(listener.get(), 4), 0);
  const std::string options =
      R"("pid":1,"options":{"sqpoll":false,"verbose":false},"control":{"fd":null,"path":"x",)"
      R"("device":0,"inode":0})";
  for (const std::string& answer :
       {std::string("nonsense"), std::string("[]"), std::string("{}"),
        std::string(R"({"error":"no"})"), std::string(R"({"disks":[]})"),
        std::string(R"({"version":3,"disks":[]})"), R"({"version":1,"disks":[],)" + options + "}",
        R"({"version":1,"disks":[],"descriptors":3,)" + options + "}",
        R"({"version":1,"disks":{},)" + options + "}"}) {
    testing::ChildProcess child({kBackendProgram, "--takeover", control_});
    const UniqueFd socket(::accept(listener.get(), nullptr, nullptr));
    EXPECT_NE(receive_line(socket).find("takeover"), std::string::npos);
    send_line(socket, answer);
    EXPECT_EQ(child.wait(), 1) << answer << child.output();
    const std::string output = child.output();
    EXPECT_EQ(std::ranges::count(output, '\n'), 1) << answer << output;
  }
  EXPECT_TRUE(std::filesystem::exists(control_)) << "a path of another process";
}

TEST_F(TakeoverTest, DescriptorNumbersOfTheOtherProcessAreNotCompared) {
  const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_un address = address_of(control_);
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(listener.get(), 4), 0);
  const auto disk = [](const std::string& name) {
    return R"({"settings":[["name",")" + name +
           R"("],["fd","7"],["blk-file","null:1M"]],"io":null,"claim":null,"size":1048576,)"
           R"("listener":null})";
  };
  const std::string line =
      R"({"descriptors":1,"version":1,"pid":1,"options":{"sqpoll":false,"verbose":false},)"
      R"("control":{"fd":0,"path":"x",)"
      R"("device":0,"inode":0},)"
      R"("disks":[)" +
      disk("a") + "," + disk("b") + "]}";
  testing::ChildProcess child({kBackendProgram, "--takeover", control_});
  const UniqueFd socket(::accept(listener.get(), nullptr, nullptr));
  EXPECT_NE(receive_line(socket).find("takeover"), std::string::npos);
  send_line_with_fd(socket, line, listener.get());
  EXPECT_NE(receive_line(socket).find("ready"), std::string::npos) << child.output();
}

}  // namespace
}  // namespace guestio::tests
