// SPDX-License-Identifier: MIT
#include "apps/guestio-load/run_report.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "guestio/base/version.h"

namespace guestio::load {

namespace {

using Json = nlohmann::ordered_json;

double seconds_of(const RunSummary& summary) {
  return std::chrono::duration<double>(summary.measured).count();
}

/// "12.3 us": about three significant digits.
std::string duration_text(double nanoseconds) {
  constexpr std::array kUnits = {"ns", "us", "ms", "s"};
  std::size_t unit = 0;
  while (nanoseconds >= 1000 && unit + 1 < kUnits.size()) {
    nanoseconds /= 1000;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", nanoseconds, unit == 0 || nanoseconds >= 100 ? 0 : 1,
                     kUnits[unit]);
}

std::string direction_text(const char* name, const DirectionTotals& totals, double seconds) {
  if (totals.requests == 0) return fmt::format("  {:<6} no requests\n", name);
  const Histogram& latency = totals.latency;
  const auto value = [](auto nanoseconds) {
    return duration_text(static_cast<double>(nanoseconds));
  };
  const auto bandwidth = static_cast<std::uint64_t>(static_cast<double>(totals.bytes) / seconds);
  return fmt::format(
      "  {:<6} {:.0f} IOPS, {}/s, {} requests, {}\n"
      "         clat     min {}, mean {}, max {}\n"
      "                  p50 {}, p90 {}, p99 {}, p99.9 {}\n",
      name, static_cast<double>(totals.requests) / seconds, format_byte_count(ByteCount(bandwidth)),
      totals.requests, format_byte_count(ByteCount(totals.bytes)), value(latency.min()),
      value(latency.mean()), value(latency.max()), value(latency.percentile(50)),
      value(latency.percentile(90)), value(latency.percentile(99)),
      value(latency.percentile(99.9)));
}

bool reads(ReadWrite rw) { return rw != ReadWrite::kWrite && rw != ReadWrite::kRandWrite; }
bool writes(ReadWrite rw) { return rw != ReadWrite::kRead && rw != ReadWrite::kRandRead; }

Json latency_json(const Histogram& latency) {
  Json json = {{"min", latency.min()},
               {"max", latency.max()},
               {"mean", latency.mean()},
               {"stddev", latency.standard_deviation()},
               {"N", latency.count()}};
  if (latency.count() == 0) return json;
  for (const double percent : {1.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0,
                               99.0, 99.5, 99.9, 99.95, 99.99}) {
    json["percentile"][fmt::format("{:.6f}", percent)] = latency.percentile(percent);
  }
  return json;
}

Json direction_json(const DirectionTotals& totals, double seconds) {
  const double bytes_a_second = static_cast<double>(totals.bytes) / seconds;
  return {{"io_bytes", totals.bytes},
          {"io_kbytes", totals.bytes / 1024},
          {"bw_bytes", std::llround(bytes_a_second)},
          {"bw", std::llround(bytes_a_second / 1024)},
          {"iops", static_cast<double>(totals.requests) / seconds},
          {"runtime", std::llround(seconds * 1000)},
          {"total_ios", totals.requests},
          // From adding a request to the ring until reaping its used element.
          {"clat_ns", latency_json(totals.latency)},
          {"lat_ns", latency_json(totals.latency)}};
}

}  // namespace

std::string to_normal(const RunArguments& arguments, const RunSummary& summary) {
  const double seconds = seconds_of(summary);
  std::string text = fmt::format("{}: bs {}, iodepth {}, numjobs {}, measured {:.1f} s\n",
                                 to_text(arguments.rw), format_byte_count(arguments.block_size),
                                 arguments.depth, arguments.jobs, seconds);
  if (reads(arguments.rw)) text += direction_text("read", summary.totals.read, seconds);
  if (writes(arguments.rw)) text += direction_text("write", summary.totals.write, seconds);
  text += fmt::format("  cpu    {:.0f} % user, {:.0f} % system of one core (guestio-load only)\n",
                      100 * summary.user_seconds / seconds, 100 * summary.system_seconds / seconds);
  return text;
}

std::string to_json(const RunArguments& arguments, const RunSummary& summary) {
  const double seconds = seconds_of(summary);
  Json options = {
      {"rw", to_text(arguments.rw)},
      {"bs", std::to_string(arguments.block_size.raw())},
      {"iodepth", std::to_string(arguments.depth)},
      {"numjobs", std::to_string(arguments.jobs)},
      {"runtime", fmt::format("{:g}", static_cast<double>(arguments.runtime.count()) / 1000)},
      {"offset", std::to_string(arguments.offset.raw())},
      {"seed", std::to_string(arguments.seed)}};
  if (arguments.rw == ReadWrite::kRandRw) {
    options["rwmixread"] = std::to_string(arguments.read_percent);
  }
  if (arguments.size) options["size"] = std::to_string(arguments.size->raw());
  const Json job = {{"jobname", "guestio-load"},
                    {"error", 0},
                    {"job options", options},
                    {"read", direction_json(summary.totals.read, seconds)},
                    {"write", direction_json(summary.totals.write, seconds)},
                    {"job_runtime", std::llround(seconds * 1000)},
                    {"usr_cpu", 100 * summary.user_seconds / seconds},
                    {"sys_cpu", 100 * summary.system_seconds / seconds}};
  const Json whole = {{"guestio-load version", kVersion}, {"jobs", Json::array({job})}};
  return whole.dump(2) + "\n";
}

}  // namespace guestio::load
