// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/core.h>

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string_view>

/// One log for the whole process, to standard error, for the person who runs it. A failure is
/// logged once, where it is dealt with, and the line says what can be done.
namespace guestio::log {

enum class Level { kDebug, kInfo, kWarning, kError };

/// Lines below `level` are dropped. Any thread. The default is kInfo.
void set_level(Level level) noexcept;
[[nodiscard]] bool enabled(Level level) noexcept;
/// Any thread. The text is one line without its end.
void write(Level level, std::string_view text);

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
void limited_warning(RateLimit& limit, fmt::format_string<Args...> format, Args&&... args) {
  const auto verdict = limit.ask();
  if (!verdict.allowed) return;
  if (verdict.suppressed != 0) warning("{} similar lines were left out", verdict.suppressed);
  warning(format, std::forward<Args>(args)...);
}
/// What a peer can make happen as often as it likes, held back by `limit`.
template <typename... Args>
void limited_info(RateLimit& limit, fmt::format_string<Args...> format, Args&&... args) {
  const auto verdict = limit.ask();
  if (!verdict.allowed) return;
  if (verdict.suppressed != 0) info("{} similar lines were left out", verdict.suppressed);
  info(format, std::forward<Args>(args)...);
}

}  // namespace guestio::log
