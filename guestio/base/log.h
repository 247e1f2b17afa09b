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

/// One log for the whole process, for the person who runs it. A failure is logged once, where it is
/// dealt with, and the line says what can be done.
///
///     any thread: write() --> bounded queue --> log thread --> the sink, or standard error
///
/// 1. write() never blocks: it takes a lock that is never held across I/O or a call of the sink.
/// 2. A line that finds the queue full is dropped and counted. The count is a line of its own, at
///    the place of the lines that are missing.
/// 3. Lines are delivered in the order of write(), with the time of write().
/// 4. At exit() the lines so far are delivered, for kExitTimeout at most, and the sink is reset.
///    _exit() and signals that kill deliver nothing: flush() first.
///
/// The log thread starts with the first line, or with start(); signals are blocked in it. Where it
/// cannot start, and after exit() has begun, lines go to standard error on the caller's thread, or
/// are dropped when that would wait. A child after fork() has no lines of its parent's, and a log
/// thread of its own from its first line on.
///
/// A queue of our own and not that of spdlog's asynchronous logger, which waits at exit until the
/// last line is written, however long the reader takes, and throws where no thread can be had.
namespace guestio::log {

enum class Level { kDebug, kInfo, kWarning, kError };

/// The lines that wait at most: so many for the log thread, and as many in its hands.
inline constexpr std::size_t kMaxQueuedLines = 1024;
/// Bytes of a line; the rest of a longer one is cut off. Whole lines of one write each stay whole
/// in a pipe that several processes write to (PIPE_BUF).
inline constexpr std::size_t kMaxLineBytes = 4000;
inline constexpr std::chrono::milliseconds kExitTimeout{1000};

/// Lines below `level` are dropped. Any thread. The default is kInfo.
void set_level(Level level) noexcept;
[[nodiscard]] bool enabled(Level level) noexcept;
/// Any thread. The text is one line without its end.
void write(Level level, std::string_view text);

/// Starts the log thread if it does not run. Any thread. Errors: those of start_thread().
Result<> start();
/// Waits until the lines so far are delivered, `limit` at most; whether they are. Any thread but
/// the log thread.
bool flush(std::chrono::milliseconds limit);
/// As flush(), for a process that is about to abort: a few milliseconds at most. Signal-safe.
void flush_before_abort() noexcept;

/// One line as a sink gets it.
struct Line {
  std::chrono::system_clock::time_point time;  ///< of write()
  Level level;
  std::string_view text;  ///< without an end of line; valid during the call
};
/// Called on the log thread, one call at a time. It may be slow, at the price of lines that are
/// dropped. It must not throw, and must not log.
using Sink = std::function<void(const Line&)>;

/// Has lines delivered to `sink` instead of standard error; an empty one restores standard error.
/// Lines that are queued go to the new one: flush() first where that matters. The sink of before
/// is not called any more when this returns, so it waits for a call that is under way (not when the
/// sink itself calls it). Any thread. Errors: those of start(); then nothing has changed.
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

/// Keeps a hostile peer from filling the log: so many lines at once, then one for each interval.
/// Any thread.
class RateLimit {
 public:
  using Clock = std::chrono::steady_clock;

  RateLimit(std::uint32_t burst, Clock::duration interval) noexcept
      : burst_(burst), interval_(interval), tokens_(burst) {}

  /// What to do with a line that is due now.
  struct Verdict {
    bool allowed;
    std::uint64_t suppressed;  ///< lines dropped since the last one that was allowed
  };
  [[nodiscard]] Verdict ask(Clock::time_point now = Clock::now()) noexcept;

 private:
  const std::uint32_t burst_;
  const Clock::duration interval_;
  std::mutex mutex_;
  // protected by mutex_
  std::uint32_t tokens_;
  Clock::time_point refilled_{};
  std::uint64_t suppressed_ = 0;
};

/// A warning about a peer's fault, held back by `limit`.
template <typename... Args>
void rate_limited_warning(RateLimit& limit, fmt::format_string<Args...> format, Args&&... args) {
  const auto verdict = limit.ask();
  if (!verdict.allowed) return;
  if (verdict.suppressed == 0) return warning(format, std::forward<Args>(args)...);
  warning("{} ({} similar lines were left out before)",
          fmt::format(format, std::forward<Args>(args)...), verdict.suppressed);
}
/// What a peer can make happen as often as it likes, held back by `limit`.
template <typename... Args>
void rate_limited_info(RateLimit& limit, fmt::format_string<Args...> format, Args&&... args) {
  const auto verdict = limit.ask();
  if (!verdict.allowed) return;
  if (verdict.suppressed == 0) return info(format, std::forward<Args>(args)...);
  info("{} ({} similar lines were left out before)",
       fmt::format(format, std::forward<Args>(args)...), verdict.suppressed);
}

}  // namespace guestio::log
