// SPDX-License-Identifier: MIT
#include "guestio/blk/queue_statistics.h"

namespace guestio::blk {

namespace {

constexpr std::uint64_t kQuarters = LatencyHistogram::kStepsPerDoubling;

/// The highest bit selects the doubling, the next two bits the quarter.
std::size_t step_of(std::uint64_t ns) noexcept {
  if (ns < kQuarters) return static_cast<std::size_t>(ns);
  const auto doubling = static_cast<std::uint64_t>(std::bit_width(ns)) - 2;
  const std::uint64_t quarter = (ns >> (doubling - 1)) & (kQuarters - 1);
  return std::min<std::size_t>(static_cast<std::size_t>(doubling * kQuarters + quarter),
                               LatencyHistogram::kSteps - 1);
}

/// The first nanosecond after a step.
std::uint64_t end_of(std::size_t step) noexcept {
  if (step < kQuarters) return step + 1;
  const std::uint64_t doubling = step / kQuarters;
  return (kQuarters + step % kQuarters + 1) << (doubling - 1);
}

}  // namespace

const char* to_text(RequestKind kind) noexcept {
  switch (kind) {
    case RequestKind::kRead: return "read";
    case RequestKind::kWrite: return "write";
    case RequestKind::kFlush: return "flush";
    case RequestKind::kDiscard: return "discard";
    case RequestKind::kWriteZeroes: return "write_zeroes";
    case RequestKind::kSecureErase: return "secure_erase";
    case RequestKind::kOther: return "other";
  }
  return "other";
}

void LatencyHistogram::record(std::chrono::nanoseconds latency) noexcept {
  ++steps_[step_of(static_cast<std::uint64_t>(std::max<std::int64_t>(latency.count(), 0)))];
}

void LatencyHistogram::add(const LatencyHistogram& other) noexcept {
  for (std::size_t i = 0; i < kSteps; ++i) steps_[i] += other.steps_[i];
}

std::uint64_t LatencyHistogram::count() const noexcept {
  std::uint64_t sum = 0;
  for (const Counter& step : steps_) sum += step;
  return sum;
}

std::chrono::nanoseconds LatencyHistogram::percentile(double share) const noexcept {
  const std::uint64_t all = count();
  if (all == 0) return {};
  const double wanted = share * static_cast<double>(all);
  std::uint64_t seen = 0;
  std::size_t step = 0;
  for (; step < kSteps - 1; ++step) {
    seen += steps_[step];
    if (seen != 0 && static_cast<double>(seen) >= wanted) break;
  }
  return std::chrono::nanoseconds(end_of(step));
}

std::uint64_t QueueStatistics::requests() const noexcept {
  std::uint64_t sum = 0;
  for (const Kind& kind : kinds) sum += kind.requests;
  return sum;
}

void QueueStatistics::add(const QueueStatistics& other) noexcept {
  for (std::size_t i = 0; i < kRequestKinds; ++i) {
    kinds[i].requests += other.kinds[i].requests;
    kinds[i].bytes += other.kinds[i].bytes;
    kinds[i].errors += other.kinds[i].errors;
  }
  latency.add(other.latency);
}

}  // namespace guestio::blk
