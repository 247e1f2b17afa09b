// SPDX-License-Identifier: MIT
#include "guestio/base/log.h"

#include <fmt/format.h>
#include <poll.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "guestio/base/thread.h"
#include "guestio/base/write_with_timeout.h"

namespace guestio::log {

namespace {

using std::chrono::milliseconds;
using SystemTime = std::chrono::system_clock::time_point;

struct Entry {
  SystemTime time;
  Level level;
  std::string text;
};

const char* to_text(Level level) noexcept {
  switch (level) {
    case Level::kDebug: return "debug";
    case Level::kInfo: return "info";
    case Level::kWarning: return "warning";
    case Level::kError: break;
  }
  return "error";
}

/// The text for standard error, with local time.
std::string format(const Entry& entry) {
  using std::chrono::duration_cast;
  const auto since = entry.time.time_since_epoch();
  const std::time_t seconds = duration_cast<std::chrono::seconds>(since).count();
  const auto rest = duration_cast<milliseconds>(since).count() % 1000;
  std::tm local{};
  ::localtime_r(&seconds, &local);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03} guestio {}: {}\n",
                     local.tm_year + 1900, local.tm_mon + 1, local.tm_mday, local.tm_hour,
                     local.tm_min, local.tm_sec, rest, to_text(entry.level), entry.text);
}

/// On the log thread: waits for the reader without a limit. Unwritable text is lost, for want of
/// another channel.
void write_to_standard_error(std::string_view text) noexcept {
  while (!text.empty()) {
    const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
    if (written >= 0) {
      text.remove_prefix(static_cast<std::size_t>(written));
    } else if (errno == EAGAIN) {  // another process made the shared open file non-blocking
      pollfd waits{.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
      (void)::poll(&waits, 1, -1);
    } else if (errno != EINTR) {
      return;
    }
  }
}

/// The queue and its thread. Never destroyed: during exit other threads may still log, and the log
/// thread may be blocked in a write.
class Writer {
 public:
  /// `before`: in a child process, the parent's writer.
  explicit Writer(Writer* before = nullptr) noexcept : before_(before) {
    if (before != nullptr) sink_ = before->sink_;
  }

  void write(Entry entry) {
    std::unique_lock lock(mutex_);
    if (!is_ending_ && start_locked()) return enqueue(std::move(entry));
    const std::uint64_t dropped = take_dropped();
    lock.unlock();
    write_directly(entry, dropped);
  }

  Result<> start() {
    const std::scoped_lock lock(mutex_);
    return start_locked();
  }

  bool flush(milliseconds limit) {
    std::unique_lock lock(mutex_);
    const auto is_flushed = [this, wanted = accepted_.load()] { return delivered_ >= wanted; };
    return is_started_ ? was_delivered_.wait_for(lock, limit, is_flushed) : is_flushed();
  }

  /// Takes no lock: the aborting thread may hold it.
  [[nodiscard]] bool is_idle() const noexcept { return delivered_ == accepted_; }

  Result<> set_sink(Sink sink, milliseconds limit) {
    auto replaced = sink ? std::make_shared<const Sink>(std::move(sink)) : nullptr;
    std::unique_lock lock(mutex_);
    if (replaced) {
      if (auto started = start_locked(); !started) return started;
    }
    sink_.swap(replaced);
    if (std::this_thread::get_id() == thread_id_) return {};
    const auto is_out = [this, old = replaced.get()] { return in_call_ != old || old == nullptr; };
    if (limit == kForever) {
      was_delivered_.wait(lock, is_out);
    } else {
      was_delivered_.wait_for(lock, limit, is_out);
    }
    return {};
  }

  /// Called by exit().
  void end() {
    (void)flush(kExitTimeout);
    {
      const std::scoped_lock lock(mutex_);
      is_ending_ = true;
    }
    (void)set_sink({}, kExitTimeout);
  }

  // Around fork(), so that the child's copy of the lock is free.
  void lock() noexcept { mutex_.lock(); }
  void unlock() noexcept { mutex_.unlock(); }

  static constexpr milliseconds kForever = milliseconds::max();

 private:
  Result<> start_locked() {
    if (is_started_) return {};
    auto thread = start_thread("guestio-log", [this] { main(); });
    if (!thread) return fail(thread.error());
    thread_id_ = thread->get_id();
    // Never joined: it may be blocked in a write for ever.
    thread->detach();
    is_started_ = true;
    return {};
  }

  void enqueue(Entry entry) {
    if (queue_.size() >= kMaxQueuedLines) return note_dropped(1);
    queue_.push_back(std::move(entry));
    ++accepted_;
    has_lines_.notify_one();
  }

  // A pending count of dropped lines is one more line to deliver.
  void note_dropped(std::uint64_t lines) noexcept {
    if (dropped_ == 0) ++accepted_;
    dropped_ += lines;
  }
  std::uint64_t take_dropped() noexcept {
    if (dropped_ != 0) ++delivered_;
    return std::exchange(dropped_, 0);
  }

  void write_directly(const Entry& entry, std::uint64_t dropped) {
    if (dropped != 0 && write_with_timeout(STDERR_FILENO, format(make_notice(dropped, false)))) {
      dropped = 0;
    }
    if (dropped == 0 && write_with_timeout(STDERR_FILENO, format(entry))) return;
    const std::scoped_lock lock(mutex_);
    note_dropped(dropped + 1);
  }

  static Entry make_notice(std::uint64_t dropped, bool has_sink) {
    return {std::chrono::system_clock::now(), Level::kWarning,
            fmt::format("{} log lines dropped: {} is too slow", dropped,
                        has_sink ? "the sink" : "the reader of standard error")};
  }

  void main() {
    std::vector<Entry> batch;
    std::unique_lock lock(mutex_);
    while (true) {
      has_lines_.wait(lock, [this] { return !queue_.empty() || dropped_ != 0; });
      // Lines are dropped only while the queue is full: they belong after this batch and before all
      // later lines.
      batch.swap(queue_);
      const std::uint64_t dropped = std::exchange(dropped_, 0);
      for (const Entry& entry : batch) deliver(entry, lock);
      batch.clear();
      if (dropped != 0) deliver(make_notice(dropped, sink_ != nullptr), lock);
    }
  }

  /// Releases the lock during the call.
  void deliver(const Entry& entry, std::unique_lock<std::mutex>& lock) {
    auto sink = sink_;
    in_call_ = sink.get();
    lock.unlock();
    if (sink) {
      (*sink)({entry.time, entry.level, entry.text});
    } else {
      write_to_standard_error(format(entry));
    }
    sink.reset();
    lock.lock();
    in_call_ = nullptr;
    ++delivered_;
    was_delivered_.notify_all();
  }

  Writer* const before_;  // reachable for leak checkers
  std::atomic<std::uint64_t> accepted_ = 0;
  std::atomic<std::uint64_t> delivered_ = 0;
  std::mutex mutex_;
  // protected by mutex_
  std::condition_variable has_lines_;
  std::condition_variable was_delivered_;
  std::vector<Entry> queue_;
  std::uint64_t dropped_ = 0;
  std::shared_ptr<const Sink> sink_;
  const Sink* in_call_ = nullptr;
  std::thread::id thread_id_;
  bool is_started_ = false;
  bool is_ending_ = false;
};

std::atomic<Level> lowest = Level::kInfo;
constinit std::atomic<Writer*> current = nullptr;

Writer& writer() {
  static const bool is_made = [] {
    current = new Writer();
    (void)::pthread_atfork([] { current.load()->lock(); }, [] { current.load()->unlock(); },
                           // The parent's lock and conditions have waiters the child lacks.
                           [] { current = new Writer(current); });
    (void)std::atexit([] { current.load()->end(); });
    return true;
  }();
  (void)is_made;
  return *current;
}

}  // namespace

void set_level(Level level) noexcept { lowest = level; }

bool enabled(Level level) noexcept { return level >= lowest; }

void write(Level level, std::string_view text) {
  if (!enabled(level)) return;
  writer().write(
      {std::chrono::system_clock::now(), level, std::string(text.substr(0, kMaxLineBytes))});
}

Result<> start() { return writer().start(); }

bool flush(milliseconds limit) { return writer().flush(limit); }

void flush_before_abort() noexcept {
  constexpr int kPolls = 10;
  constexpr timespec kPollInterval{.tv_sec = 0, .tv_nsec = 1'000'000};
  const Writer* const present = current;
  for (int i = 0; present != nullptr && !present->is_idle() && i < kPolls; ++i) {
    (void)::nanosleep(&kPollInterval, nullptr);
  }
}

Result<> set_sink(Sink sink) { return writer().set_sink(std::move(sink), Writer::kForever); }

RateLimit::Verdict RateLimit::admit(Clock::time_point now) noexcept {
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
