// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "guestio/disk/disk.h"

/// Limits of the IOPS and the bandwidth of disks: the values, and the budget that disks share.
namespace guestio::disk {

/// The limits of one group; those of QEMU's throttle groups.
enum class ThrottleLimit : std::uint8_t {
  kIopsTotal,
  kIopsRead,
  kIopsWrite,
  kBpsTotal,
  kBpsRead,
  kBpsWrite,
};
inline constexpr std::size_t kThrottleLimits = 6;

/// "iops-total".
[[nodiscard]] const char* to_text(ThrottleLimit limit) noexcept;

/// One limit, in operations or bytes a second. 0 in `average`: no limit. `max` is the burst rate
/// for up to `max_seconds` seconds after an idle time; 0: no bursts.
struct ThrottleRate {
  std::uint64_t average = 0;
  std::uint64_t max = 0;
  std::uint64_t max_seconds = 1;
  friend bool operator==(const ThrottleRate&, const ThrottleRate&) = default;
};

/// All limits of a group.
struct ThrottleLimits {
  static constexpr std::uint64_t kMaxRate = 1'000'000'000'000'000;  ///< that of QEMU
  static constexpr std::uint64_t kMaxSeconds = 3600;

  std::array<ThrottleRate, kThrottleLimits> rates;

  [[nodiscard]] ThrottleRate& operator[](ThrottleLimit limit) noexcept {
    return rates[static_cast<std::size_t>(limit)];
  }
  [[nodiscard]] const ThrottleRate& operator[](ThrottleLimit limit) const noexcept {
    return rates[static_cast<std::size_t>(limit)];
  }
  [[nodiscard]] bool is_limited() const noexcept;
  friend bool operator==(const ThrottleLimits&, const ThrottleLimits&) = default;
};

/// A value of a ThrottleLimits by its name: "bps-read", "bps-read-max" or "bps-read-max-length".
struct ThrottleSetting {
  ThrottleLimit limit;
  std::uint64_t ThrottleRate::* value;
};
/// Empty for an unknown name.
[[nodiscard]] std::optional<ThrottleSetting> find_throttle_setting(std::string_view name);
/// All names, in the order of ThrottleLimit.
[[nodiscard]] std::span<const std::string> throttle_setting_names();

/// The first contradiction among `limits`, as a sentence; empty without one. A total excludes the
/// limits of reads and writes; a burst rate needs a limit, and is not below it.
[[nodiscard]] std::string find_conflict(const ThrottleLimits& limits);

/// Requests with the same limits; they wait in one order.
enum class ThrottleClass : std::uint8_t {
  kRead,   ///< one operation and its bytes
  kWrite,  ///< one operation and its bytes
  kRange,  ///< a write operation for each started MiB of discard, write-zeroes and secure erase
  kFlush,  ///< one write operation
};
inline constexpr std::size_t kThrottleClasses = 4;
[[nodiscard]] ThrottleClass throttle_class(IoKind kind) noexcept;

/// The budget of the disks of a group.
///
/// Each limit is a leaky bucket. It leaks at the rate of the limit, and holds what the rate moves
/// in kPeriod. A request starts while no bucket of its class is above that, and fills them all: one
/// request may overdraw them, so that a request of any size passes any limit, and the next ones
/// wait for the debt. Bursts add a second bucket with the burst rate, and their bytes or operations
/// to the size of the first one.
///
///      start() ──► above its size? ──yes──► wait until it has leaked
///                     │no                      ┆
///                     ▼                        ▼
///              + operations, bytes         members in turn
///
/// Fairness: the members (channels) have equal shares of the time of a limit. Each counts the time
/// that its requests took of their tightest limit. A member that is ahead of another waiting one by
/// kLead yields to it, unless that one is late (kLate): a stalled thread holds up nobody. An absent
/// member saves no share for later, except kCredit: a guest that stalls for a moment loses nothing.
///
/// Threads: any. A lock is held for a few comparisons; classes without a limit take none. Lifetime:
/// the members' channels keep the group.
class ThrottleGroup {
 public:
  using Time = std::chrono::steady_clock::time_point;
  using Clock = std::function<Time()>;

  /// The work that a limit lets through at once after an idle time. Small for even latencies; large
  /// against the delays of timers and threads, which it makes up for.
  static constexpr std::chrono::milliseconds kPeriod{50};
  static constexpr std::chrono::milliseconds kLead{2};
  static constexpr std::chrono::milliseconds kLate{10};
  static constexpr std::chrono::milliseconds kCredit{25};
  /// Bytes of an operation of ThrottleClass::kRange.
  static constexpr std::uint64_t kRangeBytes = std::uint64_t{1} << 20;
  /// What one range, or a request that does not wait, takes of a limit at most: the requests after
  /// it wait no longer.
  static constexpr std::chrono::seconds kMaxDebt{1};

  /// A channel in the group. Threads: its channel's. Lifetime: the group outlives it.
  class Member {
   public:
    explicit Member(ThrottleGroup& group);
    Member(const Member&) = delete;
    Member& operator=(const Member&) = delete;
    ~Member();

   private:
    friend class ThrottleGroup;
    // All protected by the group's mutex.
    ThrottleGroup& group_;
    double used_ = 0;  // time that its requests took of their tightest limit, in ns
    std::array<bool, kThrottleClasses> is_waiting_{};
    std::array<Time, kThrottleClasses> next_attempt_{};  // of the waiting ones
  };

  explicit ThrottleGroup(const ThrottleLimits& limits = {},
                         Clock clock = std::chrono::steady_clock::now);
  ThrottleGroup(const ThrottleGroup&) = delete;
  ThrottleGroup& operator=(const ThrottleGroup&) = delete;
  ~ThrottleGroup() = default;

  [[nodiscard]] Time now() const { return clock_(); }
  [[nodiscard]] ThrottleLimits limits() const;
  /// Requires: no conflict. Debts stay, but never for longer than before. Waiting requests learn of
  /// it by their channels.
  void set_limits(const ThrottleLimits& limits);
  /// Whether there is any limit. Without the lock, as the next one.
  [[nodiscard]] bool is_limited() const noexcept {
    return is_limited(ThrottleClass::kRead) || is_limited(ThrottleClass::kWrite);
  }
  /// Whether requests of the class have a limit.
  [[nodiscard]] bool is_limited(ThrottleClass kind) const noexcept {
    return classes_[static_cast<std::size_t>(kind)].load(std::memory_order_relaxed) != 0;
  }

  /// Returns 0 if `io` may start, and counts it. Otherwise the time until the next attempt;
  /// `member` waits for its class until a later call for it.
  [[nodiscard]] std::chrono::nanoseconds try_start(Member& member, const Io& io, Time now);
  /// Counts a request that starts without a wait, up to kMaxDebt.
  void start_now(Member& member, const Io& io, Time now);
  /// The member waits no longer for the class of `io`, which is not counted.
  void start_uncounted(Member& member, const Io& io);

 private:
  using Mask = std::uint16_t;  // bit i: buckets_[i]
  struct Bucket {
    ThrottleLimit limit = ThrottleLimit::kIopsTotal;
    bool is_burst = false;  // leaks at the burst rate
    double rate = 0;        // operations or bytes a nanosecond
    double size = 0;
    double level = 0;

    /// Nanoseconds until the level is at the size.
    [[nodiscard]] double excess() const noexcept { return (level - size) / rate; }
    [[nodiscard]] double units(const Io& io) const noexcept;
    [[nodiscard]] double level_for(const Bucket& changed) const noexcept;
  };
  /// The other waiting members with a bucket in common.
  struct Rivals {
    unsigned ahead = 0;       // those that come first
    bool must_yield = false;  // to one that can start now
  };

  [[nodiscard]] static std::vector<Bucket> make_buckets(const ThrottleLimits& limits);
  [[nodiscard]] Mask mask_of(ThrottleClass kind) const noexcept {
    return classes_[static_cast<std::size_t>(kind)].load(std::memory_order_relaxed);
  }
  void leak(Time now) noexcept;
  [[nodiscard]] double excess(Mask mask) const noexcept;
  [[nodiscard]] double cost(Mask mask, const Io& io) const noexcept;
  [[nodiscard]] Rivals find_rivals(const Member& member, Mask mask, Time now) const noexcept;
  void count(Member& member, Mask mask, const Io& io) noexcept;

  const Clock clock_;
  // The buckets of each class. Written under mutex_. Relaxed: a request that races with
  // set_limits() may have the limits before or after it.
  std::array<std::atomic<Mask>, kThrottleClasses> classes_{};

  mutable std::mutex mutex_;
  // protected by mutex_
  ThrottleLimits limits_;
  std::vector<Bucket> buckets_;
  Time leaked_at_;
  double virtual_time_ = 0;  // `used_` of the member of the last request, before it
  std::vector<Member*> members_;
};

}  // namespace guestio::disk
