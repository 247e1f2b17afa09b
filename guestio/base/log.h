// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/core.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string_view>

#include "guestio/base/error.h"

/// The log of the process, for its operator. A failure is logged once, where it is handled, with
/// the operator's remedy.
///
///     any thread: write() --> bounded queue --> log thread --> the sink, or standard error
///
/// 1. write() never blocks: its lock is never held across I/O or a call of the sink.
/// 2. A full queue drops lines and counts them. The count is a line of its own, in the place of the
///    dropped lines.
/// 3. Lines are delivered in the order of write(), with the time of write().
/// 4. exit() delivers the queued lines, for at most kExitTimeout, and resets the sink. _exit() and
///    fatal signals deliver nothing: flush() first.
///
/// The first line, or start(), starts the log thread, with signals blocked. If it cannot start, and
/// after exit() has begun, lines go to standard error on the caller's thread, or are dropped if
/// that would block. A child after fork() inherits no lines and starts a log thread of its own with
/// its first line.
///
/// Not spdlog's asynchronous logger: at exit it waits for the last line without a limit, and it
/// throws if no thread can be started.
namespace guestio::log {

enum class Level { kDebug, kInfo, kWarning, kError };

/// Capacity of the queue; the log thread holds at most as many again.
inline constexpr std::size_t kMaxQueuedLines = 1024;
/// Longer lines are truncated. Lines below PIPE_BUF stay intact in a pipe with several writers.
inline constexpr std::size_t kMaxLineBytes = 4000;
inline constexpr std::chrono::milliseconds kExitTimeout{1000};

/// Lines below `level` are dropped. Any thread. The default is kInfo.
void set_level(Level level) noexcept;
[[nodiscard]] bool enabled(Level level) noexcept;
/// Any thread. `text` is one line without a newline.
void write(Level level, std::string_view text);

/// Starts the log thread unless it runs. Any thread. Errors: of start_thread().
Result<> start();
/// Waits for delivery of the queued lines, at most `limit`. Returns whether they were delivered.
/// Any thread except the log thread.
bool flush(std::chrono::milliseconds limit);
/// As flush(), for an aborting process: at most a few milliseconds. Signal-safe.
void flush_before_abort() noexcept;

/// One line for a sink.
struct Line {
  std::chrono::system_clock::time_point time;  ///< of write()
  Level level;
  std::string_view text;  ///< without a newline; valid during the call
};
/// Called on the log thread, one call at a time. A slow sink causes dropped lines. Must not throw
/// and must not log.
using Sink = std::function<void(const Line&)>;

/// Replaces standard error by `sink`; an empty one restores standard error. Queued lines go to the
/// new sink: flush() first if that matters. Waits for a running call of the old sink (unless the
/// sink itself calls this), and never calls it again. Any thread. Errors: of start(); the sink is
/// then unchanged.
Result<> set_sink(Sink sink);

template <typename... Args>
void debug(fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(Level::kDebug))
    write(Level::kDebug, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(Level::kInfo)) write(Level::kInfo, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void warning(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::kWarning, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void error(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::kError, fmt::format(format, std::forward<Args>(args)...));
}

/// A token bucket against log flooding by a hostile peer: `burst` lines at once, then one for each
/// interval. Any thread.
class RateLimit {
 public:
  using Clock = std::chrono::steady_clock;

  RateLimit(std::uint32_t burst, Clock::duration interval) noexcept
      : burst_(burst), interval_(interval), tokens_(burst) {}

  struct Verdict {
    bool allowed;
    std::uint64_t suppressed;  ///< lines suppressed since the last allowed one
  };
  /// Takes a token for one line.
  [[nodiscard]] Verdict admit(Clock::time_point now = Clock::now()) noexcept;

 private:
  const std::uint32_t burst_;
  const Clock::duration interval_;
  std::mutex mutex_;
  // protected by mutex_
  std::uint32_t tokens_;
  Clock::time_point refilled_{};
  std::uint64_t suppressed_ = 0;
};

/// A warning about a peer's fault, rate-limited by `limit`.
template <typename... Args>
void rate_limited_warning(RateLimit& limit, fmt::format_string<Args...> format, Args&&... args) {
  const auto verdict = limit.admit();
  if (!verdict.allowed) return;
  if (verdict.suppressed == 0) return warning(format, std::forward<Args>(args)...);
  warning("{} ({} similar lines suppressed before)",
          fmt::format(format, std::forward<Args>(args)...), verdict.suppressed);
}
/// An event that a peer can cause at will, rate-limited by `limit`.
template <typename... Args>
void rate_limited_info(RateLimit& limit, fmt::format_string<Args...> format, Args&&... args) {
  const auto verdict = limit.admit();
  if (!verdict.allowed) return;
  if (verdict.suppressed == 0) return info(format, std::forward<Args>(args)...);
  info("{} ({} similar lines suppressed before)", fmt::format(format, std::forward<Args>(args)...),
       verdict.suppressed);
}

}  // namespace guestio::log
