// SPDX-License-Identifier: MIT
// The modes of `guestio-load run`, each against guestio-blk.
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

/// A set of load options.
struct LoadOptions {
  const char* name;
  std::vector<std::string> options;
};

class LoadTest : public BackendTest, public ::testing::WithParamInterface<LoadOptions> {
 protected:
  /// Writes the whole image: the first write to each block of a sparse file waits for the file
  /// system's journal, on a busy machine longer than the measurement takes.
  void fill_image() const {
    const std::vector<char> zeroes(std::size_t{1} << 20);
    std::ofstream image(image_, std::ios::in | std::ios::out | std::ios::binary);
    const auto size = std::filesystem::file_size(image_);
    for (std::uintmax_t at = 0; at < size; at += zeroes.size()) {
      image.write(zeroes.data(), static_cast<std::streamsize>(zeroes.size()));
    }
    ASSERT_TRUE(image.flush());
  }

  /// Runs briefly, and again for longer when the disk completed nothing in one of the directions:
  /// shared disks stall for seconds at times.
  nlohmann::json load(const std::vector<std::string>& options) {
    nlohmann::json json;
    const auto has_done = [&](const char* direction) {
      return json["jobs"][0][direction]["total_ios"].get<std::uint64_t>() != 0;
    };
    for (const char* seconds : {"0.3", "5", "30"}) {
      json = load_for(seconds, options);
      if (json.is_discarded() || (has_done("read") && has_done("write"))) break;
    }
    return json;
  }
  nlohmann::json load_for(const std::string& seconds, const std::vector<std::string>& options) {
    std::vector<std::string> arguments = {
        kLoadProgram, "run",    "--socket-path", socket_, "--runtime",           seconds,
        "--rw",       "randrw", "--ramp-time",   "0.05",  "--output-format=json"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    testing::ChildProcess child(arguments);
    EXPECT_EQ(child.wait(std::chrono::seconds(240)), 0) << child.output() << backend_->output();
    return nlohmann::json::parse(child.output(), nullptr, false);
  }
};

TEST_P(LoadTest, ReachesTheDiskAndIsMeasured) {
  fill_image();
  start({"--num-queues", "2"});
  const auto json = load(GetParam().options);
  ASSERT_FALSE(json.is_discarded());
  for (const char* direction : {"read", "write"}) {
    const auto& done = json["jobs"][0][direction];
    EXPECT_GT(done["iops"].get<double>(), 0) << json.dump(2);
    const auto& percentile = done["clat_ns"]["percentile"];
    const auto median = percentile["50.000000"].get<std::uint64_t>();
    EXPECT_GT(median, 0u);
    EXPECT_LE(median, percentile["99.000000"].get<std::uint64_t>());
    EXPECT_LE(percentile["99.000000"], percentile["99.900000"]);
  }
  stop();
}

TEST_P(LoadTest, ReachesANullDisk) {
  image_ = "null:1G";
  start({"--num-queues", "2"});
  const auto json = load(GetParam().options);
  ASSERT_FALSE(json.is_discarded());
  EXPECT_GT(json["jobs"][0]["read"]["iops"].get<double>(), 0) << json.dump(2);
  stop();
}

INSTANTIATE_TEST_SUITE_P(
    , LoadTest,
    ::testing::Values(
        LoadOptions{"Sleeping", {"--iodepth", "4"}},
        LoadOptions{"Polling", {"--iodepth", "4", "--poll"}},
        LoadOptions{"PollingOneAtATime", {"--poll"}},
        LoadOptions{"PollingWithoutEventIndex", {"--poll", "--no-event-idx"}},
        LoadOptions{"OffByOneByte", {"--iodepth", "4", "--buffer-offset", "1"}},
        LoadOptions{"OffByOneSector", {"--iodepth", "4", "--buffer-offset", "512"}},
        LoadOptions{"InSixteenSegments", {"--iodepth", "4", "--bs", "64k", "--segments", "16"}},
        LoadOptions{"InSegmentsOffByOneByte",
                    {"--bs", "16k", "--segments", "4", "--buffer-offset", "1"}},
        LoadOptions{"OnTwoQueues", {"--iodepth", "4", "--numjobs", "2"}},
        LoadOptions{"PollingOnTwoQueues", {"--poll", "--numjobs", "2"}},
        LoadOptions{"AsDeepAsTheRing", {"--iodepth", "1024", "--queue-size", "1024", "--poll"}},
        LoadOptions{"AsDeepAsTheRingWithoutIndirectTables",
                    {"--iodepth", "256", "--queue-size", "1024", "--no-indirect"}}),
    [](const auto& instance) { return std::string(instance.param.name); });

}  // namespace
}  // namespace guestio::tests
