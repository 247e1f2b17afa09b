// SPDX-License-Identifier: MIT
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <thread>

#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"

namespace guestio::registered {

/// Says when it is worth asking whether pages of a memory file have gone, to those who hold on to
/// some of them and would hear nothing otherwise because they have nothing to do.
///
///     somebody punches a hole, truncates ──► inotify ──┐
///                                                      ├─► one thread ──► on_memory_changed()
///     the host runs short of memory ──► its pressure ──┘
///
/// News is a hint: nothing may have gone. Writes through mappings make none. Files of
/// memfd_create() are silent on newer kernels (found so on 6.18, where fs/file_table.c takes
/// notices away from all files that have no place in a tree); for those there is the pressure
/// (/proc/pressure/memory), which is when somebody wants the memory. Where the kernel or the limits
/// for inotify give one or both of them not, news does not come.
///
/// One thread and one inotify instance a process, which sleep while nothing happens, and rest for a
/// moment after each round of news.
///
/// Threads: any. Lifetime: as long as somebody holds it or a Watch.
class MemoryMonitor : public std::enable_shared_from_this<MemoryMonitor> {
  struct Entry;

 public:
  class Subscriber {
   public:
    /// On the news thread, which waits: quick. Lets no Watch go and makes none.
    virtual void on_memory_changed() noexcept = 0;

   protected:
    ~Subscriber() = default;
  };
  /// That news is heard. When this has gone, nobody is called for it any more. Keeps the file: goes
  /// with the mapping.
  class Subscription {
   public:
    Subscription(Subscription&& other) noexcept = default;
    Subscription& operator=(Subscription&& other) = delete;
    ~Subscription() {
      if (news_) news_->forget(entry_);
    }
    /// Otherwise only of memory in general: the kernel or a limit has refused.
    [[nodiscard]] bool is_file_watched() const noexcept { return entry_->number >= 0; }

   private:
    friend class MemoryMonitor;
    Subscription(std::shared_ptr<MemoryMonitor> news, std::list<Entry>::iterator entry) noexcept
        : news_(std::move(news)), entry_(entry) {}
    std::shared_ptr<MemoryMonitor> news_;
    std::list<Entry>::iterator entry_;
  };

  /// The one of this process. Errors: host (no thread, no descriptors).
  [[nodiscard]] static Result<std::shared_ptr<MemoryMonitor>> of_process();
  MemoryMonitor(const MemoryMonitor&) = delete;
  MemoryMonitor& operator=(const MemoryMonitor&) = delete;
  ~MemoryMonitor();

  /// Has the subscriber called when the file, or memory in general, is worth a look.
  [[nodiscard]] Subscription subscribe(int fd, Subscriber& subscriber);

 private:
  struct Entry {
    int number;  // of the file, by inotify; or -1: not watched
    Subscriber* subscriber;
  };

  explicit MemoryMonitor(UniqueFd end) noexcept;
  void forget(std::list<Entry>::iterator entry) noexcept;
  void listen() noexcept;
  void hear_files() noexcept;
  template <typename Condition>
  void tell(Condition is_meant) noexcept;

  const UniqueFd end_;      // eventfd
  const UniqueFd files_;    // inotify, or nothing
  UniqueFd pressure_;       // or nothing; the thread's
  std::mutex mutex_;        // held while listeners are called
  std::list<Entry> watch_;  // guarded by it
  std::jthread thread_;
};

}  // namespace guestio::registered
