// SPDX-License-Identifier: MIT
#include "guestio/base/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <memory>

namespace guestio::log {

namespace {

spdlog::level::level_enum to_spdlog(Level level) noexcept {
  switch (level) {
    case Level::kDebug: return spdlog::level::debug;
    case Level::kInfo: return spdlog::level::info;
    case Level::kWarning: return spdlog::level::warn;
    case Level::kError: return spdlog::level::err;
  }
  return spdlog::level::err;
}

spdlog::logger& logger() {
  // Never destroyed: threads may still log while the process ends.
  static auto* const instance = [] {
    auto* made = new spdlog::logger("guestio", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_pattern("%Y-%m-%dT%H:%M:%S.%e guestio %l: %v");
    made->flush_on(spdlog::level::debug);
    return made;
  }();
  return *instance;
}

}  // namespace

void set_level(Level level) noexcept { logger().set_level(to_spdlog(level)); }

bool enabled(Level level) noexcept { return logger().should_log(to_spdlog(level)); }

void write(Level level, std::string_view text) {
  logger().log(to_spdlog(level), spdlog::string_view_t(text.data(), text.size()));
}

RateLimit::Verdict RateLimit::ask(Clock::time_point now) noexcept {
  const std::lock_guard lock(mutex_);
  if (refilled_ == Clock::time_point{}) refilled_ = now;
  const auto earned = (now - refilled_) / interval_;
  if (earned > 0) {
    tokens_ = static_cast<std::uint32_t>(
        std::min<std::int64_t>(burst_, static_cast<std::int64_t>(tokens_) + earned));
    refilled_ += earned * interval_;
  }
  if (tokens_ == 0) {
    ++suppressed_;
    return {false, 0};
  }
  --tokens_;
  return {true, std::exchange(suppressed_, 0)};
}

}  // namespace guestio::log
