// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "guestio/base/counter.h"
#include "guestio/disk/disk.h"
#include "guestio/disk/rbd/lock_record.h"
#include "guestio/disk/rbd/rbd_image.h"
#include "guestio/disk/rbd/rbd_lock.h"
#include "guestio/disk/rbd/stall_monitor.h"
#include "guestio/uring/loop.h"

namespace guestio::disk {

/// The image of a disk over the disk's life: its lock, its replacement after the cluster has fenced
/// us, its size, and the time limits. It tells the channels what to do with requests.
///
///     kWaiting ──(lock owned, or none needed)──► kReady
///        ▲  │                                      │
///        │  └──(io-timeout; displaced)──► kAway    │
///        └──(fenced, lock lost)────────────────────┘     kAway ──(lock owned)──► kReady
///
/// One worker at a time, on a helper thread, brings the image to the wanted state; between changes
/// there is none. Nothing here blocks its caller.
///
/// After fencing, the image is opened anew on another connection. If another client owns the lock
/// by then, the disk is displaced: it stays away until the next claim(), because the guest knows
/// nothing of the other's writes.
///
/// Threads: any.
class RbdSession final : public Monitored, public std::enable_shared_from_this<RbdSession> {
 public:
  enum class Phase : std::uint8_t {
    kReady,    ///< requests go to the image
    kWaiting,  ///< requests wait in the channel
    kAway,     ///< requests fail with ErrorKind::kClosed
  };
  struct View {
    Phase phase = Phase::kWaiting;
    std::shared_ptr<RbdImage> image;
  };
  struct Options {
    std::string name;
    RbdImage::Options image;
    bool uses_lock = false;
    std::string state_path;  ///< of the LockRecord; may be empty
  };
  /// A channel, for the session. `refresh` runs on the loop's thread.
  struct Subscriber {
    uring::Loop* loop = nullptr;
    std::function<void()> refresh;
    const Counter* submitted = nullptr;
    const Counter* completed = nullptr;
  };

  RbdSession(RadosConnections& connections, Options options, std::shared_ptr<RbdImage> image);

  /// Watches the image, and starts the time limits. `resized` hears of sizes, on a helper thread.
  void start(std::function<void(ByteCount)> resized);
  /// Acquires the lock for good. Blocks; one attempt. Errors: busy (another owner), host.
  OpenResult<void> lock_now();
  /// Lets go of the image on a helper thread. No subscriber is left.
  void close();

  /// Wants the lock, or no longer does.
  void claim();
  void release();
  [[nodiscard]] bool is_claimed() const;
  /// Wants the lock that the predecessor of a takeover still owns.
  void claim_from(std::optional<LockRecord> predecessor);
  /// What a successor must know.
  [[nodiscard]] LockRecord record() const;

  /// Requires: `subscriber` lives until unsubscribe(), called on its loop's thread.
  void subscribe(std::shared_ptr<Subscriber> subscriber);
  void unsubscribe(const std::shared_ptr<Subscriber>& subscriber);
  [[nodiscard]] View view() const;
  /// A request waits for Phase::kReady.
  void on_waiting_request();
  /// The cluster refuses the client of `image`.
  void on_fenced(const RbdImage* image);
  /// librbd no longer lets `image` write.
  void on_lock_lost(const RbdImage* image);
  /// Whether requests have been without an answer for the time limit.
  [[nodiscard]] bool is_stalled() const noexcept {
    return is_stalled_.load(std::memory_order_relaxed);
  }
  void on_progress();

  [[nodiscard]] bool uses_lock() const noexcept { return options_.uses_lock; }
  void fill_status(DiskStatus& status) const;

 private:
  using Lock = std::unique_lock<std::mutex>;

  void tick(Clock::time_point now) override;
  [[nodiscard]] std::chrono::milliseconds tick_interval() const noexcept override;

  void wake_worker();
  void work();
  void acquire(Lock& lock);
  void release_owned(Lock& lock);
  void reopen(Lock& lock);
  void query_size(Lock& lock);
  void finish_closing(Lock& lock);
  void on_acquired(Lock& lock);
  void on_other_owner(const std::string& owner, Lock& lock);
  void pause(Lock& lock);
  [[nodiscard]] bool is_own_fenced(const std::string& address) const;
  [[nodiscard]] bool may_break(const std::string& owner) const;
  void set_phase(Phase phase);
  void record_attempt(Lock& lock);
  void save_or_warn(const LockRecords& records, Lock& lock) const;
  static void remove_record(const std::string& path, const std::string& address);
  void notify_subscribers();
  void report_trouble(std::string trouble);

  RadosConnections& connections_;
  const Options options_;
  std::atomic<bool> is_stalled_ = false;
  std::atomic<bool> has_waiting_request_ = false;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // protected by mutex_
  std::shared_ptr<RbdImage> image_;  // changed by the worker only
  Phase phase_ = Phase::kWaiting;
  Clock::time_point phase_since_ = Clock::now();
  bool is_working_ = false;
  bool is_closing_ = false;
  bool is_wanted_ = false;  // the lock
  bool is_owned_ = false;   // the lock
  bool is_displaced_ = false;
  bool was_fenced_ = false;  // and has not owned the lock since
  bool must_reopen_ = false;
  bool has_new_size_ = false;
  std::optional<LockRecord> predecessor_;      // of a takeover
  LockRecords recorded_;                       // of earlier processes
  std::string recorded_address_;               // in the file as ours
  std::vector<std::string> fenced_addresses_;  // our own
  Clock::time_point request_waits_since_{};
  std::chrono::milliseconds pause_{0};
  std::string trouble_;  // the last one; empty: none
  std::uint64_t reconnects_ = 0;
  std::function<void(ByteCount)> resized_;
  std::vector<std::shared_ptr<Subscriber>> subscribers_;
  std::uint64_t last_completed_ = 0;
  std::uint64_t last_in_flight_ = 0;
  Clock::time_point progress_at_{};
};

}  // namespace guestio::disk
