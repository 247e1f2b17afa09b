// SPDX-License-Identifier: MIT
#include "apps/guestio-load/run_report.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace guestio::load {
namespace {

RunSummary make_summary() {
  RunSummary summary;
  summary.measured = std::chrono::seconds(2);
  for (int i = 0; i < 1000; ++i) summary.totals.read.latency.record(100'000);
  summary.totals.read.requests = 1000;
  summary.totals.read.bytes = 4'096'000;
  return summary;
}

TEST(RunReport, JsonHasTheNamesOfFio) {
  const auto json = nlohmann::json::parse(to_json(RunArguments(), make_summary()));
  const auto& job = json["jobs"][0];
  EXPECT_EQ(job["read"]["iops"], 500.0);
  EXPECT_EQ(job["read"]["bw_bytes"], 2'048'000);
  EXPECT_EQ(job["read"]["bw"], 2000);
  EXPECT_EQ(job["read"]["total_ios"], 1000);
  EXPECT_EQ(job["read"]["runtime"], 2000);
  EXPECT_EQ(job["read"]["clat_ns"]["min"], 100'000);
  EXPECT_EQ(job["read"]["clat_ns"]["percentile"]["99.000000"], 100'000);
  EXPECT_EQ(job["write"]["total_ios"], 0);
  EXPECT_EQ(job["job options"]["rw"], "randread");
}

TEST(RunReport, TextHasRatesAndLatencies) {
  const std::string text = to_normal(RunArguments(), make_summary());
  EXPECT_NE(text.find("500 IOPS, 2.0 MiB/s"), std::string::npos) << text;
  EXPECT_NE(text.find("p99 100 us"), std::string::npos) << text;
  EXPECT_EQ(text.find("write"), std::string::npos) << text;
}

}  // namespace
}  // namespace guestio::load
