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

/// A guest that gives its memory back makes thousands of holes; the first one says it all.
constexpr auto kRest = std::chrono::milliseconds(100);

/// In all but idle systems somebody waits for memory now and then: 20 ms in 2 s, the shortest time
/// that needs no privileges (Documentation/accounting/psi.rst).
constexpr std::string_view kShortOfMemory{"some 20000 2000000\0", 19};

UniqueFd watch_pressure() noexcept {
  UniqueFd file(::open("/proc/pressure/memory", O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!file) return {};
  const ssize_t written = ::write(file.get(), kShortOfMemory.data(), kShortOfMemory.size());
  return written == static_cast<ssize_t>(kShortOfMemory.size()) ? std::move(file) : UniqueFd();
}

}  // namespace

Result<std::shared_ptr<MemoryMonitor>> MemoryMonitor::of_process() {
  static std::mutex mutex;
  static std::weak_ptr<MemoryMonitor> present;
  const std::scoped_lock lock(mutex);
  if (auto known = present.lock()) return known;
  UniqueFd end(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!end) return fail_host("make an eventfd");
  const std::shared_ptr<MemoryMonitor> made(new MemoryMonitor(std::move(end)));
  auto thread = start_thread("guestio-news", [news = made.get()] { news->listen(); });
  if (!thread) return fail(thread.error());
  made->thread_ = std::move(*thread);
  present = made;
  return made;
}

MemoryMonitor::MemoryMonitor(UniqueFd end) noexcept
    : end_(std::move(end)),
      files_(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK)),
      pressure_(watch_pressure()) {}

MemoryMonitor::~MemoryMonitor() {
  const std::uint64_t one = 1;
  (void)!::write(end_.get(), &one, sizeof one);
  if (thread_.joinable()) thread_.join();
}

MemoryMonitor::Subscription MemoryMonitor::subscribe(int fd, Subscriber& subscriber) {
  const std::string path = fmt::format("/proc/self/fd/{}", fd);
  const std::scoped_lock lock(mutex_);
  const int number = files_ ? ::inotify_add_watch(files_.get(), path.c_str(), IN_MODIFY) : -1;
  return {shared_from_this(), watch_.insert(watch_.end(), {number, &subscriber})};
}

void MemoryMonitor::forget(std::list<Entry>::iterator entry) noexcept {
  const std::scoped_lock lock(mutex_);
  const int number = entry->number;
  watch_.erase(entry);
  // Watches of one file have one number.
  if (number >= 0 && std::ranges::find(watch_, number, &Entry::number) == watch_.end()) {
    (void)::inotify_rm_watch(files_.get(), number);
  }
}

void MemoryMonitor::listen() noexcept {
  while (true) {
    // Descriptors that are not there are left out by the kernel.
    std::array<pollfd, 3> waits = {
        {{end_.get(), POLLIN, 0}, {files_.get(), POLLIN, 0}, {pressure_.get(), POLLPRI, 0}}};
    if (::poll(waits.data(), waits.size(), -1) < 0) continue;
    const auto& [end, files, pressure] = waits;
    if (end.revents != 0) return;
    if ((files.revents & POLLIN) != 0) hear_files();
    if ((pressure.revents & POLLPRI) != 0) tell([](const Entry&) { return true; });
    if ((pressure.revents & (POLLERR | POLLNVAL)) != 0) pressure_.reset();
    pollfd rest{end_.get(), POLLIN, 0};
    (void)::poll(&rest, 1, static_cast<int>(kRest.count()));
  }
}

/// Each subscriber once, whatever happened to how many of its files. All that has come is read, so
/// that whoever makes much news keeps nobody else's waiting.
void MemoryMonitor::hear_files() noexcept {
  constexpr int kMaxReads = 128;  // more than the kernel keeps by default
  alignas(inotify_event) std::array<std::byte, 4096> events;
  std::set<int> numbers;
  bool is_any = false;
  for (int i = 0; i < kMaxReads; ++i) {
    const ssize_t size = ::read(files_.get(), events.data(), events.size());
    if (size <= 0) break;
    for (std::size_t at = 0; at + sizeof(inotify_event) <= static_cast<std::size_t>(size);) {
      inotify_event event{};
      std::memcpy(&event, &events[at], sizeof event);
      at += sizeof event + event.len;
      numbers.insert(event.wd);
      // Too many events came: some of any file are missing.
      is_any |= (event.mask & IN_Q_OVERFLOW) != 0;
    }
  }
  tell([&](const Entry& entry) { return is_any || numbers.contains(entry.number); });
}

template <typename Condition>
void MemoryMonitor::tell(Condition is_meant) noexcept {
  const std::scoped_lock lock(mutex_);
  std::set<Subscriber*> told;
  for (const Entry& entry : watch_) {
    if (is_meant(entry) && told.insert(entry.subscriber).second)
      entry.subscriber->on_memory_changed();
  }
}

}  // namespace guestio::registered
