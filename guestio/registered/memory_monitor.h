// SPDX-License-Identifier: MIT
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <thread>

#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"

namespace guestio::registered {

/// Tells holders of memory that is registered when to check its file for lost pages. Busy holders
/// find out by themselves; this is for idle ones.
///
///     hole punched, file truncated ──► inotify ─────────┐
///                                                       ├─► one thread ──► on_memory_changed()
///     host short of memory ──► /proc/pressure/memory ───┘
///
/// A notice is a hint: the pages may all be there. Writes through mappings cause none. Files of
/// memfd_create() cause none on newer kernels (seen on 6.18, where fs/file_table.c drops notices
/// for files without a place in a tree); memory pressure covers those. Where the kernel or the
/// inotify limits refuse a source, its notices do not come.
///
/// One thread and one inotify instance per process. The thread sleeps while nothing happens, and
/// pauses after each round of notices.
///
/// Threads: any. Lifetime: as long as a holder or a Subscription keeps it.
class MemoryMonitor : public std::enable_shared_from_this<MemoryMonitor> {
  struct Entry;

 public:
  class Subscriber {
   public:
    /// The file, or memory in general, may have changed. Runs on the monitor's thread; must be
    /// quick, and must neither create nor end a Subscription.
    virtual void on_memory_changed() noexcept = 0;

   protected:
    ~Subscriber() = default;
  };
  /// Guarantees: no call for it after its end. Lifetime: keeps the monitor. The file is the
  /// mapping's to keep.
  class Subscription {
   public:
    Subscription(Subscription&& other) noexcept = default;
    Subscription& operator=(Subscription&& other) = delete;
    ~Subscription() {
      if (monitor_) monitor_->unsubscribe(entry_);
    }
    /// False: inotify refused the file, and only memory pressure is reported.
    [[nodiscard]] bool is_file_watched() const noexcept { return entry_->watch >= 0; }

   private:
    friend class MemoryMonitor;
    Subscription(std::shared_ptr<MemoryMonitor> monitor, std::list<Entry>::iterator entry) noexcept
        : monitor_(std::move(monitor)), entry_(entry) {}
    std::shared_ptr<MemoryMonitor> monitor_;
    std::list<Entry>::iterator entry_;
  };

  /// The monitor of this process. Errors: host (no thread, no descriptors).
  [[nodiscard]] static Result<std::shared_ptr<MemoryMonitor>> of_process();
  MemoryMonitor(const MemoryMonitor&) = delete;
  MemoryMonitor& operator=(const MemoryMonitor&) = delete;
  ~MemoryMonitor();

  /// Calls `subscriber` from now on.
  [[nodiscard]] Subscription subscribe(int fd, Subscriber& subscriber);

 private:
  struct Entry {
    int watch;  // inotify's number of the file; -1 without
    Subscriber* subscriber;
  };

  explicit MemoryMonitor(UniqueFd stop) noexcept;
  void unsubscribe(std::list<Entry>::iterator entry) noexcept;
  void run() noexcept;
  void handle_file_events() noexcept;
  template <typename Condition>
  void notify(Condition is_affected) noexcept;

  const UniqueFd stop_;       // eventfd
  const UniqueFd inotify_;    // empty: refused
  UniqueFd pressure_;         // empty: refused; the thread's
  std::mutex mutex_;          // held during the calls of subscribers
  std::list<Entry> entries_;  // guarded by it
  std::jthread thread_;
};

}  // namespace guestio::registered
