// SPDX-License-Identifier: MIT
#include "guestio/registered/memory_monitor.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <set>
#include <string_view>

#include "guestio/base/thread.h"

namespace guestio::registered {

namespace {

/// A guest that releases memory punches thousands of holes; the first notice covers them all.
constexpr auto kPause = std::chrono::milliseconds(100);

/// 20 ms of stalls in 2 s: the shortest window without privileges
/// (Documentation/accounting/psi.rst). All but idle systems stall now and then.
constexpr std::string_view kPressureTrigger{"some 20000 2000000\0", 19};

UniqueFd open_pressure() noexcept {
  UniqueFd file(::open("/proc/pressure/memory", O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!file) return {};
  const ssize_t written = ::write(file.get(), kPressureTrigger.data(), kPressureTrigger.size());
  return written == static_cast<ssize_t>(kPressureTrigger.size()) ? std::move(file) : UniqueFd();
}

}  // namespace

Result<std::shared_ptr<MemoryMonitor>> MemoryMonitor::of_process() {
  static std::mutex mutex;
  static std::weak_ptr<MemoryMonitor> present;
  const std::scoped_lock lock(mutex);
  if (auto monitor = present.lock()) return monitor;
  UniqueFd stop(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!stop) return fail_host("make an eventfd");
  const std::shared_ptr<MemoryMonitor> made(new MemoryMonitor(std::move(stop)));
  auto thread = start_thread("guestio-monitor", [monitor = made.get()] { monitor->run(); });
  if (!thread) return fail(thread.error());
  made->thread_ = std::move(*thread);
  present = made;
  return made;
}

MemoryMonitor::MemoryMonitor(UniqueFd stop) noexcept
    : stop_(std::move(stop)),
      inotify_(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK)),
      pressure_(open_pressure()) {}

MemoryMonitor::~MemoryMonitor() {
  const std::uint64_t one = 1;
  (void)!::write(stop_.get(), &one, sizeof one);
  if (thread_.joinable()) thread_.join();
}

MemoryMonitor::Subscription MemoryMonitor::subscribe(int fd, Subscriber& subscriber) {
  const std::string path = fmt::format("/proc/self/fd/{}", fd);
  const std::scoped_lock lock(mutex_);
  const int watch = inotify_ ? ::inotify_add_watch(inotify_.get(), path.c_str(), IN_MODIFY) : -1;
  return {shared_from_this(), entries_.insert(entries_.end(), {watch, &subscriber})};
}

void MemoryMonitor::unsubscribe(std::list<Entry>::iterator entry) noexcept {
  const std::scoped_lock lock(mutex_);
  const int watch = entry->watch;
  entries_.erase(entry);
  // All subscriptions to one file share its watch.
  if (watch >= 0 && std::ranges::find(entries_, watch, &Entry::watch) == entries_.end()) {
    (void)::inotify_rm_watch(inotify_.get(), watch);
  }
}

void MemoryMonitor::run() noexcept {
  while (true) {
    // poll() skips the descriptors that are -1.
    std::array<pollfd, 3> waits = {
        {{stop_.get(), POLLIN, 0}, {inotify_.get(), POLLIN, 0}, {pressure_.get(), POLLPRI, 0}}};
    if (::poll(waits.data(), waits.size(), -1) < 0) continue;
    const auto& [stop, files, pressure] = waits;
    if (stop.revents != 0) return;
    if ((files.revents & POLLIN) != 0) handle_file_events();
    if ((pressure.revents & POLLPRI) != 0) notify([](const Entry&) { return true; });
    if ((pressure.revents & (POLLERR | POLLNVAL)) != 0) pressure_.reset();
    pollfd pause{stop_.get(), POLLIN, 0};
    (void)::poll(&pause, 1, static_cast<int>(kPause.count()));
  }
}

/// Reads all events, then calls each subscriber once, whatever the number of events and files. So
/// many events of one file do not delay the others'.
void MemoryMonitor::handle_file_events() noexcept {
  constexpr int kMaxReads = 128;  // more than the kernel queues by default
  alignas(inotify_event) std::array<std::byte, 4096> events;
  std::set<int> watches;
  bool has_overflow = false;
  for (int i = 0; i < kMaxReads; ++i) {
    const ssize_t size = ::read(inotify_.get(), events.data(), events.size());
    if (size <= 0) break;
    for (std::size_t at = 0; at + sizeof(inotify_event) <= static_cast<std::size_t>(size);) {
      inotify_event event{};
      std::memcpy(&event, &events[at], sizeof event);
      at += sizeof event + event.len;
      watches.insert(event.wd);
      // The kernel dropped events, of any file.
      has_overflow |= (event.mask & IN_Q_OVERFLOW) != 0;
    }
  }
  notify([&](const Entry& entry) { return has_overflow || watches.contains(entry.watch); });
}

template <typename Condition>
void MemoryMonitor::notify(Condition is_affected) noexcept {
  const std::scoped_lock lock(mutex_);
  std::set<Subscriber*> notified;
  for (const Entry& entry : entries_) {
    if (is_affected(entry) && notified.insert(entry.subscriber).second)
      entry.subscriber->on_memory_changed();
  }
}

}  // namespace guestio::registered
