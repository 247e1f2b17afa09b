// SPDX-License-Identifier: MIT
#include "apps/guestio-load/arguments.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace guestio::load {
namespace {

using std::chrono::milliseconds;

std::expected<Arguments, EarlyExit> parse(std::vector<const char*> words) {
  words.insert(words.begin(), "guestio-load");
  return parse_arguments(static_cast<int>(words.size()), words.data());
}

TEST(Arguments, RunHasFiosNames) {
  const auto parsed =
      parse({"run", "--socket-path", "/s", "--rw=randrw", "--rwmixread=70", "--bs=64k",
             "--iodepth=32", "--numjobs=4", "--runtime=2.5", "--ramp-time=1", "--size=1G",
             "--offset=1M", "--seed=9", "--buffer-offset=100", "--segments=3", "--poll",
             "--output-format=json", "--queue-size=512", "--no-event-idx"});
  ASSERT_TRUE(parsed.has_value()) << parsed.error().text;
  const auto& run = std::get<RunArguments>(*parsed);
  EXPECT_EQ(run.target.socket_path, "/s");
  EXPECT_FALSE(run.target.event_idx);
  EXPECT_TRUE(run.target.indirect);
  EXPECT_EQ(run.rw, ReadWrite::kRandRw);
  EXPECT_EQ(run.read_percent, 70u);
  EXPECT_EQ(run.block_size, ByteCount(65536));
  EXPECT_EQ(run.depth, 32u);
  EXPECT_EQ(run.jobs, 4u);
  EXPECT_EQ(run.runtime, milliseconds(2500));
  EXPECT_EQ(run.ramp, milliseconds(1000));
  EXPECT_EQ(run.size, ByteCount(std::uint64_t{1} << 30));
  EXPECT_EQ(run.offset, ByteCount(1 << 20));
  EXPECT_EQ(run.seed, 9u);
  EXPECT_EQ(run.buffer_offset, ByteCount(100));
  EXPECT_EQ(run.segments, 3u);
  EXPECT_EQ(run.queue_size, 512);
  EXPECT_TRUE(run.poll);
  EXPECT_EQ(run.format, OutputFormat::kJson);
}

TEST(Arguments, VerifyAndInfoNeedOnlyASocket) {
  const auto verify = parse({"verify", "--socket-path=/s"});
  ASSERT_TRUE(verify.has_value());
  EXPECT_EQ(std::get<VerifyArguments>(*verify).operations, 10000u);
  EXPECT_EQ(std::get<VerifyArguments>(*verify).layout, Layout::kAny);
  const auto info = parse({"info", "--socket-path=/s"});
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(std::get<InfoArguments>(*info).format, OutputFormat::kNormal);
}

TEST(Arguments, WhatIsWrongIsSaidInOneLineWithStatusTwo) {
  const std::vector<std::vector<const char*>> cases = {
      {},
      {"dance"},
      {"run"},
      {"info"},
      {"run", "--socket-path=/s", "--rw=sideways"},
      {"run", "--socket-path=/s", "--bs=4x"},
      {"run", "--socket-path=/s", "--bs=0"},
      {"run", "--socket-path=/s", "--bs=1000"},
      {"run", "--socket-path=/s", "--bs=1G"},
      {"run", "--socket-path=/s", "--bs=512", "--segments=2"},
      {"run", "--socket-path=/s", "--iodepth=0"},
      {"run", "--socket-path=/s", "--iodepth=-1"},
      {"run", "--socket-path=/s", "--numjobs=0"},
      {"run", "--socket-path=/s", "--queue-size=100"},
      {"run", "--socket-path=/s", "--queue-size=65536"},
      {"run", "--socket-path=/s", "--runtime=0"},
      {"run", "--socket-path=/s", "--runtime=-3"},
      {"run", "--socket-path=/s", "--runtime=nan"},
      {"run", "--socket-path=/s", "--rwmixread=101"},
      {"run", "--socket-path=/s", "--offset=100"},
      {"run", "--socket-path=/s", "--output-format=xml"},
      {"run", "--socket-path=/s", "--unknown"},
      {"run", "--socket-path=/s", "stray"},
      {"verify", "--socket-path=/s", "--layout=odd"},
      {"verify", "--socket-path=/s", "--max-bs=100"},
      {"verify", "--socket-path=/s", "--ops=many"},
  };
  for (const auto& words : cases) {
    std::string command;
    for (const char* word : words) command += std::string(word) + " ";
    const auto parsed = parse(words);
    ASSERT_FALSE(parsed.has_value()) << command;
    EXPECT_EQ(parsed.error().status, kExitUsage) << command;
    EXPECT_TRUE(parsed.error().text.starts_with("guestio-load: ")) << parsed.error().text;
    EXPECT_EQ(std::ranges::count(parsed.error().text, '\n'), 1) << parsed.error().text;
  }
}

TEST(Arguments, TheMessageNamesTheOption) {
  EXPECT_NE(parse({"run", "--socket-path=/s", "--rw=sideways"}).error().text.find("--rw"),
            std::string::npos);
  EXPECT_NE(parse({"run", "--socket-path=/s", "--bs=4x"}).error().text.find("--bs"),
            std::string::npos);
  EXPECT_NE(parse({"run"}).error().text.find("--socket-path"), std::string::npos);
}

TEST(Arguments, HelpAndVersionEndWell) {
  for (const char* word : {"--help", "--version"}) {
    const auto parsed = parse({word});
    ASSERT_FALSE(parsed.has_value());
    EXPECT_EQ(parsed.error().status, 0);
  }
  EXPECT_NE(parse({"run", "--help"}).error().text.find("--iodepth"), std::string::npos);
  EXPECT_EQ(parse({"--help"}).error().text.find("--iodepth"), std::string::npos);
}

TEST(Arguments, WhatIsNoOptionIsToldWithTheOneThatMayHaveBeenMeant) {
  const auto parsed = parse({"run", "--socket-path=/s", "--iodept=4", "--colour"});
  ASSERT_FALSE(parsed.has_value());
  EXPECT_EQ(parsed.error().status, 2);
  EXPECT_EQ(parsed.error().text,
            "guestio-load: --iodept: not an option (did you mean --iodepth?), --colour: not an "
            "option (run --help shows all)\n");
}

}  // namespace
}  // namespace guestio::load
