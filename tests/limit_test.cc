// SPDX-License-Identifier: MIT
// Limits of IOPS and bandwidth: settings, changes while running, takeover.
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

using Json = nlohmann::json;
using Words = std::vector<std::string>;

class LimitTest : public BackendTest {
 protected:
  void start_with_control(Words more = {}) {
    more.insert(more.end(), {"--control", control_});
    start(more);
  }
  /// Starts disks a, b ... with these settings.
  void start_disks(const Words& settings) {
    Words words = {kBackendProgram, "--control", control_};
    char name = 'a';
    for (const std::string& setting : settings) {
      words.insert(words.end(), {"--disk", disk_words(name++) + setting});
    }
    backend_ = std::make_unique<testing::ChildProcess>(words);
    for (char one = 'a'; one != name; ++one) {
      ASSERT_TRUE(backend_->wait_for_output(std::string(1, one) + ": serves "))
          << backend_->output();
    }
  }
  std::string disk_words(char name) {
    const std::string text(1, name);
    return "name=" + text + ",socket-path=" + folder_.file(text) + ",blk-file=null:1G,";
  }
  Json ask(Words words) {
    words.insert(words.begin(), {"--ask", control_});
    const Outcome outcome = run(words);
    EXPECT_EQ(outcome.status, 0) << outcome.output;
    return Json::parse(outcome.output, nullptr, false);
  }
  Json limits_of(const std::string& disk) { return ask({"limit", disk})["limits"]; }
  /// Expects that the command is refused with `text`, and that nothing changes.
  void expect_refused(Words words, const std::string& text) {
    const Json before = limits_of("disk0");
    words.insert(words.begin(), {"--ask", control_, "limit"});
    const Outcome outcome = run(words);
    EXPECT_NE(outcome.status, 0);
    EXPECT_NE(outcome.output.find(text), std::string::npos) << outcome.output;
    EXPECT_EQ(limits_of("disk0"), before) << text;
  }
  Json statistics() { return ask({"statistics"})["disks"][0]; }

  /// Reads in a thread of its own, above a limit of the disk. Returns when it waits.
  std::jthread read_until_throttled(testing::BlkGuest& guest, std::uint8_t& status) {
    std::jthread reader([&] { status = guest.read(0, 4096).status; });
    EXPECT_TRUE(wait_until([&] { return statistics()["throttled_requests"] != 0; }));
    return reader;
  }
};

TEST_F(LimitTest, SettingsOfTheCommandLineAreShown) {
  start_with_control({"--iops-read", "100", "--iops-read-max", "200", "--iops-read-max-length", "3",
                      "--bps-total", "5M"});
  EXPECT_EQ(ask({"limit", "disk0"}), Json::parse(R"({"disk": "disk0", "limits": {
      "iops-read": 100, "iops-read-max": 200, "iops-read-max-length": 3, "bps-total": 5242880}})"));
}

TEST_F(LimitTest, ADiskWithoutLimitsShowsNone) {
  start_with_control({"--iops-total", "0"});
  EXPECT_EQ(limits_of("disk0"), Json::object());
  EXPECT_EQ(connect()->read(0, 4096).status, 0);
  EXPECT_EQ(statistics()["throttled_requests"], 0);
  EXPECT_EQ(statistics()["throttle_wait_us"], 0.0);
}

TEST_F(LimitTest, SettingsStandInDisksOfTheCommandLineAndOfAFile) {
  start_disks({"iops-total=7,bps-write=1k", "num-queues=2"});
  EXPECT_EQ(limits_of("a"), (Json{{"iops-total", 7}, {"bps-write", 1024}}));
  EXPECT_EQ(limits_of("b"), Json::object());
  stop();
  const std::string path = folder_.file("guestio.toml");
  std::ofstream(path) << "control = \"" << control_ << "\"\n[[disk]]\nsocket-path = \"" << socket_
                      << "\"\nblk-file = \"null:1G\"\niops-write = 9\nbps-read = \"1M\"\n";
  backend_ = std::make_unique<testing::ChildProcess>(Words{kBackendProgram, "--config", path});
  ASSERT_TRUE(backend_->wait_for_output("serves ")) << backend_->output();
  EXPECT_EQ(limits_of("disk0"), (Json{{"iops-write", 9}, {"bps-read", 1 << 20}}));
}

TEST_F(LimitTest, ContradictionsAreRefusedAtTheStart) {
  struct Case {
    Words words;
    std::string text;
  };
  const std::vector<Case> cases = {
      {{"--iops-total", "5", "--iops-read", "5"},
       "--iops-read: iops-read does not go with iops-total: leave one of the two out"},
      {{"--bps-total", "5", "--bps-write", "5"},
       "--bps-write: bps-write does not go with bps-total"},
      {{"--iops-total", "5", "--iops-total-max", "4"},
       "--iops-total-max: iops-total-max is below iops-total (4 and 5)"},
      {{"--iops-read-max", "4"}, "--iops-read-max: iops-read-max needs iops-read"},
      {{"--iops-read", "4", "--iops-read-max-length", "2"},
       "--iops-read-max-length: iops-read-max-length needs iops-read-max"},
      {{"--iops-total", "many"}, "--iops-total takes operations a second, or 0 for no limit"},
      {{"--bps-total", "-1"}, "--bps-total takes bytes a second such as 100M"},
      {{"--bps-total", "5", "--bps-total-max", "9", "--bps-total-max-length", "0"},
       "--bps-total-max-length takes 1 to 3600 seconds"},
      {{"--limit-group", "a b"}, "--limit-group takes 1 to 32 letters"},
      {{"--iops-totl", "5"}, "did you mean --iops-total?"},
  };
  for (const Case& one : cases) {
    Words words = {"--socket-path", socket_, "--blk-file", image_};
    words.insert(words.end(), one.words.begin(), one.words.end());
    expect_diagnostic(run(words), one.text);
  }
}

TEST_F(LimitTest, DisksOfAGroupHaveOneSetOfLimits) {
  expect_diagnostic(run({"--disk", disk_words('a') + "limit-group=g,iops-total=5", "--disk",
                         disk_words('b') + "limit-group=g,iops-total=6"}),
                    "--disk 2: disks a and b of limit-group g have different limits");
  start_disks({"limit-group=g", "limit-group=g,iops-total=5", "iops-total=6",
               "limit-group=g,iops-total=5"});
  for (const std::string disk : {"a", "b", "d"}) {
    EXPECT_EQ(limits_of(disk), (Json{{"iops-total", 5}})) << disk;
    EXPECT_EQ(ask({"limit", disk})["limit_group"], "g");
  }
  EXPECT_EQ(limits_of("c"), (Json{{"iops-total", 6}}));
  ask({"limit", "d", "iops-total=0", "bps-read=1M"});
  EXPECT_EQ(limits_of("a"), (Json{{"bps-read", 1 << 20}}));
  EXPECT_EQ(limits_of("c"), (Json{{"iops-total", 6}})) << "of no group";
}

TEST_F(LimitTest, LimitsChangeWhileRunning) {
  start_with_control();
  EXPECT_EQ(ask({"limit", "disk0", "iops-total=100", "iops-total-max=300", "bps-read=10M"}),
            Json::parse(R"({"disk": "disk0", "limits": {
                "iops-total": 100, "iops-total-max": 300, "bps-read": 10485760}})"));
  EXPECT_TRUE(backend_->wait_for_output(
      "disk0: limits changed: iops-total=100 iops-total-max=300 bps-read=10485760"))
      << backend_->output();
  EXPECT_EQ(ask({"limit", "disk0", "iops-read=50", "iops-total=0"})["limits"],
            (Json{{"iops-read", 50}, {"bps-read", 10 << 20}}))
      << "the burst of a removed limit is removed";
  EXPECT_EQ(ask({"limit", "disk0", "iops-read=0", "bps-read=0"})["limits"], Json::object());
}

TEST_F(LimitTest, RefusedChangesChangeNothing) {
  start_with_control({"--iops-total", "100"});
  expect_refused({"disk0", "iops-totl=5"}, "iops-totl is no limit (did you mean iops-total?)");
  expect_refused({"disk0", "bps-total=5", "colour=5"}, "colour is no limit");
  expect_refused({"disk0", "bps-total=5", "iops-read=5"}, "iops-read does not go with iops-total");
  expect_refused({"disk0", "iops-total-max=99"}, "iops-total-max is below iops-total (99 and 100)");
  expect_refused({"disk0", "iops-total=x"}, "iops-total takes operations a second");
  expect_refused({"disk0", "limit-group=g"}, "limit-group is no limit");
  expect_refused({"disk1", "iops-total=5"}, "no disk disk1");
  expect_refused({"disk0", "iops-total"}, "iops-total: expected KEY=VALUE");
}

TEST_F(LimitTest, WaitsAreCountedAndEndWithTheLimit) {
  start_with_control({"--bps-read", "4k"});
  const auto guest = connect();
  // Nobody waits out its debt: four minutes.
  ASSERT_EQ(guest->read(0, std::size_t{1} << 20).status, 0);
  EXPECT_EQ(statistics()["throttled_requests"], 0);
  std::uint8_t status = 0xff;
  {
    const auto reader = read_until_throttled(*guest, status);
    ask({"limit", "disk0", "bps-read=0"});
  }
  EXPECT_EQ(status, 0);
  const Json counts = statistics();
  EXPECT_EQ(counts["throttled_requests"], 1);
  EXPECT_GT(counts["throttle_wait_us"], 0);
  EXPECT_EQ(counts["queues"][0]["throttled_requests"], 1);
  EXPECT_EQ(guest->read(0, std::size_t{1} << 20).status, 0);
  EXPECT_EQ(guest->read(0, 4096).status, 0);
  EXPECT_EQ(statistics()["throttled_requests"], 1);
}

TEST_F(LimitTest, AWriteWaitsForNoLimitOfReads) {
  start_with_control({"--bps-read", "4k"});
  const auto guest = connect({.queues = 1});
  ASSERT_EQ(guest->read(0, std::size_t{1} << 20).status, 0);
  EXPECT_EQ(guest->write(0, std::vector<std::byte>(4096)).status, 0);
  EXPECT_EQ(guest->flush().status, 0);
  EXPECT_EQ(statistics()["throttled_requests"], 0);
}

TEST_F(LimitTest, ATakeoverKeepsChangedLimitsAndDoesNotWaitForThem) {
  start_with_control({"--iops-total", "100000"});
  ask({"limit", "disk0", "iops-total=0", "bps-read=4k", "bps-read-max=8k"});
  const auto guest = connect();
  ASSERT_EQ(guest->read(0, std::size_t{1} << 20).status, 0);
  std::uint8_t status = 0xff;
  {
    const auto reader = read_until_throttled(*guest, status);
    take_over();
  }
  EXPECT_EQ(status, 0) << "it was let through";
  EXPECT_EQ(limits_of("disk0"), (Json{{"bps-read", 4096}, {"bps-read-max", 8192}}));
  ask({"limit", "disk0", "bps-read=0"});
  take_over();
  EXPECT_EQ(limits_of("disk0"), Json::object());
  EXPECT_EQ(guest->read(0, 4096).status, 0);
}

TEST_F(LimitTest, ATakeoverKeepsGroups) {
  start_disks({"limit-group=g", "limit-group=g,iops-total=5", "iops-total=6"});
  ask({"limit", "b", "iops-total=8"});
  take_over();
  ask({"limit", "a", "bps-total=9"});
  EXPECT_EQ(limits_of("b"), (Json{{"iops-total", 8}, {"bps-total", 9}}));
  EXPECT_EQ(limits_of("c"), (Json{{"iops-total", 6}}));
}

TEST_F(LimitTest, SigtermDoesNotWaitForALimit) {
  start_with_control({"--bps-read", "4k"});
  const auto guest = connect();
  ASSERT_EQ(guest->read(0, std::size_t{1} << 20).status, 0);
  std::uint8_t status = 0xff;
  {
    const auto reader = read_until_throttled(*guest, status);
    stop();
  }
  EXPECT_EQ(status, 0) << "it was let through";
}

TEST_F(LimitTest, GetVringBaseDoesNotWaitForALimit) {
  start_with_control({"--bps-read", "4k"});
  const auto guest = connect();
  ASSERT_EQ(guest->read(0, std::size_t{1} << 20).status, 0);
  std::uint8_t status = 0xff;
  {
    const auto reader = read_until_throttled(*guest, status);
    EXPECT_TRUE(guest->frontend().get_vring_base(0));
  }
  EXPECT_EQ(status, 0) << "it was let through";
}

}  // namespace
}  // namespace guestio::tests
