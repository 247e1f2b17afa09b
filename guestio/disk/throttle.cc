// SPDX-License-Identifier: MIT
#include "guestio/disk/throttle.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace guestio::disk {

namespace {

using std::chrono::nanoseconds;

constexpr std::array<const char*, kThrottleLimits> kNames = {
    "iops-total", "iops-read", "iops-write", "bps-total", "bps-read", "bps-write"};

constexpr double to_double(nanoseconds time) noexcept { return static_cast<double>(time.count()); }

bool is_bandwidth(ThrottleLimit limit) noexcept { return limit >= ThrottleLimit::kBpsTotal; }

bool applies(ThrottleLimit limit, ThrottleClass kind) noexcept {
  // Ranges and flushes move no bytes.
  if (is_bandwidth(limit) && kind != ThrottleClass::kRead && kind != ThrottleClass::kWrite) {
    return false;
  }
  switch (limit) {
    case ThrottleLimit::kIopsRead:
    case ThrottleLimit::kBpsRead: return kind == ThrottleClass::kRead;
    case ThrottleLimit::kIopsWrite:
    case ThrottleLimit::kBpsWrite: return kind != ThrottleClass::kRead;
    default: return true;
  }
}

}  // namespace

const char* to_text(ThrottleLimit limit) noexcept {
  return kNames[static_cast<std::size_t>(limit)];
}

bool ThrottleLimits::is_limited() const noexcept {
  return std::ranges::any_of(rates, [](const ThrottleRate& rate) { return rate.average != 0; });
}

std::span<const std::string> throttle_setting_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const char* const name : kNames) {
      for (const char* const end : {"", "-max", "-max-length"})
        all.push_back(std::string(name) + end);
    }
    return all;
  }();
  return names;
}

std::optional<ThrottleSetting> find_throttle_setting(std::string_view name) {
  constexpr std::array kValues = {&ThrottleRate::average, &ThrottleRate::max,
                                  &ThrottleRate::max_seconds};
  const auto names = throttle_setting_names();
  const auto found = std::ranges::find(names, name);
  if (found == names.end()) return std::nullopt;
  const auto index = static_cast<std::size_t>(found - names.begin());
  return ThrottleSetting{static_cast<ThrottleLimit>(index / kValues.size()),
                         kValues[index % kValues.size()]};
}

std::string find_conflict(const ThrottleLimits& limits) {
  for (std::size_t total = 0; total < kThrottleLimits; total += 3) {
    for (const std::size_t part : {total + 1, total + 2}) {
      if (limits.rates[total].average == 0 || limits.rates[part].average == 0) continue;
      return fmt::format("{} does not go with {}: leave one of the two out", kNames[part],
                         kNames[total]);
    }
  }
  for (std::size_t i = 0; i < kThrottleLimits; ++i) {
    const ThrottleRate& rate = limits.rates[i];
    const char* const name = kNames[i];
    if (rate.max != 0 && rate.average == 0) return fmt::format("{0}-max needs {0}", name);
    if (rate.max != 0 && rate.max < rate.average) {
      return fmt::format("{0}-max is below {0} ({1} and {2})", name, rate.max, rate.average);
    }
    if (rate.max == 0 && rate.max_seconds != 1) {
      return fmt::format("{0}-max-length needs {0}-max", name);
    }
  }
  return {};
}

ThrottleClass throttle_class(IoKind kind) noexcept {
  switch (kind) {
    case IoKind::kRead: return ThrottleClass::kRead;
    case IoKind::kWrite: return ThrottleClass::kWrite;
    case IoKind::kFlush: return ThrottleClass::kFlush;
    default: return ThrottleClass::kRange;
  }
}

ThrottleGroup::Member::Member(ThrottleGroup& group) : group_(group) {
  const std::lock_guard lock(group_.mutex_);
  group_.members_.push_back(this);
}

ThrottleGroup::Member::~Member() {
  const std::lock_guard lock(group_.mutex_);
  std::erase(group_.members_, this);
}

ThrottleGroup::ThrottleGroup(const ThrottleLimits& limits, Clock clock)
    : clock_(std::move(clock)), leaked_at_(clock_()) {
  set_limits(limits);
}

ThrottleLimits ThrottleGroup::limits() const {
  const std::lock_guard lock(mutex_);
  return limits_;
}

std::vector<ThrottleGroup::Bucket> ThrottleGroup::make_buckets(const ThrottleLimits& limits) {
  constexpr double kSecond = 1e9;
  std::vector<Bucket> buckets;
  for (std::size_t i = 0; i < kThrottleLimits; ++i) {
    const ThrottleRate& rate = limits.rates[i];
    if (rate.average == 0) continue;
    Bucket bucket{.limit = static_cast<ThrottleLimit>(i),
                  .rate = static_cast<double>(rate.average) / kSecond};
    bucket.size = bucket.rate * to_double(kPeriod);
    if (rate.max > rate.average) {
      Bucket burst{.limit = bucket.limit, .is_burst = true};
      burst.rate = static_cast<double>(rate.max) / kSecond;
      burst.size = burst.rate * to_double(kPeriod);
      buckets.push_back(burst);
      bucket.size += static_cast<double>((rate.max - rate.average) * rate.max_seconds);
    }
    buckets.push_back(bucket);
  }
  return buckets;
}

void ThrottleGroup::set_limits(const ThrottleLimits& limits) {
  std::vector<Bucket> buckets = make_buckets(limits);
  const Time now = clock_();
  const std::lock_guard lock(mutex_);
  leak(now);
  for (Bucket& bucket : buckets) {
    const auto before = std::ranges::find_if(buckets_, [&](const Bucket& one) {
      return one.limit == bucket.limit && one.is_burst == bucket.is_burst;
    });
    if (before != buckets_.end()) bucket.level = before->level_for(bucket);
  }
  limits_ = limits;
  buckets_ = std::move(buckets);
  for (std::size_t kind = 0; kind < kThrottleClasses; ++kind) {
    Mask mask = 0;
    for (std::size_t i = 0; i < buckets_.size(); ++i) {
      if (applies(buckets_[i].limit, static_cast<ThrottleClass>(kind))) {
        mask = static_cast<Mask>(mask | 1U << i);
      }
    }
    classes_[kind].store(mask, std::memory_order_relaxed);
  }
}

void ThrottleGroup::leak(Time now) noexcept {
  if (now <= leaked_at_) return;  // another thread read the clock later
  const double passed = to_double(now - leaked_at_);
  leaked_at_ = now;
  for (Bucket& bucket : buckets_) bucket.level = std::max(0.0, bucket.level - passed * bucket.rate);
}

/// The level for a changed rate: as full as before, and with a debt that nobody waits longer for.
double ThrottleGroup::Bucket::level_for(const Bucket& changed) const noexcept {
  const double debt = std::max(0.0, level - size);
  return std::min(level, size) * changed.size / size + debt * std::min(1.0, changed.rate / rate);
}

double ThrottleGroup::Bucket::units(const Io& io) const noexcept {
  if (is_bandwidth(limit)) return static_cast<double>(io.length);
  if (throttle_class(io.kind) != ThrottleClass::kRange) return 1;
  const std::uint64_t operations = io.length / kRangeBytes + (io.length % kRangeBytes != 0 ? 1 : 0);
  return std::min(static_cast<double>(operations), std::max(1.0, rate * to_double(kMaxDebt)));
}

/// Nanoseconds until all buckets of `mask` are at their sizes; 0 or less: they are.
double ThrottleGroup::excess(Mask mask) const noexcept {
  double longest = 0;
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    if ((mask >> i & 1U) != 0) longest = std::max(longest, buckets_[i].excess());
  }
  return longest;
}

/// The time of the tightest limit of `io`, in nanoseconds.
double ThrottleGroup::cost(Mask mask, const Io& io) const noexcept {
  double longest = 0;
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    if ((mask >> i & 1U) == 0) continue;
    longest = std::max(longest, buckets_[i].units(io) / buckets_[i].rate);
  }
  return longest;
}

ThrottleGroup::Rivals ThrottleGroup::find_rivals(const Member& member, Mask mask,
                                                 Time now) const noexcept {
  Rivals rivals;
  if (members_.size() == 1) return rivals;
  for (const Member* const other : members_) {
    if (other == &member || other->used_ >= member.used_) continue;
    for (std::size_t kind = 0; kind < kThrottleClasses; ++kind) {
      const Mask its_mask = classes_[kind].load(std::memory_order_relaxed);
      const bool is_rival = other->is_waiting_[kind] && (its_mask & mask) != 0 &&
                            now <= other->next_attempt_[kind] + kLate;
      if (!is_rival) continue;
      ++rivals.ahead;
      rivals.must_yield |= other->used_ + to_double(kLead) < member.used_ && excess(its_mask) <= 0;
      break;
    }
  }
  return rivals;
}

void ThrottleGroup::count(Member& member, Mask mask, const Io& io) noexcept {
  virtual_time_ = std::max(virtual_time_, member.used_);
  member.used_ += cost(mask, io);
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    if ((mask >> i & 1U) != 0) buckets_[i].level += buckets_[i].units(io);
  }
}

nanoseconds ThrottleGroup::try_start(Member& member, const Io& io, Time now) {
  // Members with this many others before them do not wake for each of their requests.
  constexpr double kLongestTurn = 5e6;
  const ThrottleClass kind = throttle_class(io.kind);
  const auto index = static_cast<std::size_t>(kind);
  const std::lock_guard lock(mutex_);
  leak(now);
  const Mask mask = mask_of(kind);
  const bool was_waiting = std::exchange(member.is_waiting_[index], false);
  if (!was_waiting && std::ranges::none_of(member.is_waiting_, std::identity())) {
    member.used_ = std::max(member.used_, virtual_time_ - to_double(kCredit));
  }
  const double excess_now = excess(mask);
  const Rivals rivals = find_rivals(member, mask, now);
  double wait = excess_now;
  if (excess_now <= 0) {
    if (!rivals.must_yield) {
      count(member, mask, io);
      return nanoseconds(0);
    }
    wait = to_double(kLead) / 2;
  } else if (rivals.ahead != 0) {
    wait += std::min(rivals.ahead * cost(mask, io), kLongestTurn);
  }
  // A debt of years is a rounding error of the limit.
  constexpr double kLongestWait = 3600e9;
  const nanoseconds until(static_cast<std::int64_t>(std::min(wait, kLongestWait)) + 1);
  member.is_waiting_[index] = true;
  member.next_attempt_[index] = now + until;
  return until;
}

void ThrottleGroup::start_now(Member& member, const Io& io, Time now) {
  const ThrottleClass kind = throttle_class(io.kind);
  const std::lock_guard lock(mutex_);
  leak(now);
  member.is_waiting_[static_cast<std::size_t>(kind)] = false;
  const Mask mask = mask_of(kind);
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    if ((mask >> i & 1U) == 0) continue;
    Bucket& bucket = buckets_[i];
    const double limit = bucket.size + bucket.rate * to_double(kMaxDebt);
    if (bucket.level < limit) bucket.level = std::min(bucket.level + bucket.units(io), limit);
  }
}

void ThrottleGroup::start_uncounted(Member& member, const Io& io) {
  const std::lock_guard lock(mutex_);
  member.is_waiting_[static_cast<std::size_t>(throttle_class(io.kind))] = false;
}

}  // namespace guestio::disk
