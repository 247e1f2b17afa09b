// SPDX-License-Identifier: MIT
#include "guestio/disk/rbd/stall_monitor.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <utility>
#include <vector>

#include "guestio/base/thread.h"

namespace guestio::disk {

namespace {

class StallMonitor {
 public:
  Result<> add(std::weak_ptr<Monitored> object) {
    const std::lock_guard lock(mutex_);
    if (!is_running_) {
      auto thread = start_thread("rbd-monitor", [this] { run(); });
      if (!thread) return fail(thread.error());
      // It sleeps when the process ends.
      thread->detach();
      is_running_ = true;
    }
    objects_.push_back(std::move(object));
    changed_.notify_all();
    return {};
  }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      std::vector<std::shared_ptr<Monitored>> alive;
      for (const auto& object : objects_) {
        if (auto held = object.lock(); held) alive.push_back(std::move(held));
      }
      std::erase_if(objects_, [](const auto& object) { return object.expired(); });
      if (alive.empty()) break;
      auto interval = std::chrono::milliseconds::max();
      lock.unlock();
      const auto now = Monitored::Clock::now();
      for (const auto& object : alive) {
        object->tick(now);
        interval = std::min(interval, object->tick_interval());
      }
      alive.clear();
      lock.lock();
      changed_.wait_for(lock, interval);
    }
    is_running_ = false;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  // protected by mutex_
  std::vector<std::weak_ptr<Monitored>> objects_;
  bool is_running_ = false;
};

}  // namespace

Result<> monitor(std::weak_ptr<Monitored> object) {
  // Never destroyed: the thread may run until the end of the process.
  static auto* const monitor = new StallMonitor;
  return monitor->add(std::move(object));
}

}  // namespace guestio::disk
