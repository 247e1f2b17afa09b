// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/base/peer_log.h"
#include "guestio/mem/guest_memory.h"
#include "guestio/registered/memory_monitor.h"
#include "guestio/uring/loop.h"
#include "guestio/uring/registered_buffers.h"

/// Guest memory that is registered with the threads' rings, as far as that is safe and allowed.
namespace guestio::registered {

/// Which of a front-end's memory is registered.
enum class RegistrationScope : std::uint8_t {
  kResidentOnly,  ///< files whose pages are all there: guests that do not share out their memory
  kAll,           ///< what is not there yet is brought in
};

/// A front-end's memory, registered: once for each front-end, however many rings and tables it has.
///
///     session: want() --> a thread: watch the pages, pin them --> rings: register_ready()
///                                        ^                            |
///                                   let them go <-- a page is not what it was
///
/// Registered pages stay what they were when the guest gives pages back (balloon, free page
/// reporting, virtio-mem): what moves through one of those is lost. So pages are watched
/// (registered::PageGuard), operations ask before they name a piece, and a region that has lost a
/// page is registered no more. Where pages cannot be watched, kResidentOnly does without; kAll says
/// so once and goes on: then it is only right for guests that never give memory back.
///
/// Who has no operations that would ask hears of it (registered::MemoryMonitor): the file is asked
/// how much of it is there, and rings that hold on to a region that has lost something are told to
/// let go.
///
/// Memory in files of other kinds (FUSE, a disk) is not registered at all.
///
/// Nothing waits for it: rings run from the start, on plain operations until memory is ready. What
/// is refused stays plain, and a line in the log says what can be done about it.
///
/// Threads: any. Lifetime: outlives what register_ready() gave.
class MemoryRegistry final : private MemoryMonitor::Subscriber {
  struct Area;

 public:
  /// One region's registration with one ring, and what it stands on.
  struct RegisteredRegion {
    std::shared_ptr<Area> area;
    uring::RegisteredBuffers::Registration registration;  // goes first
  };
  /// Goes before the memory does, on the ring's thread.
  using Registrations = std::vector<RegisteredRegion>;

  static constexpr std::size_t kMaxRegistered = 64;

  /// Somebody who has taken, and is to give back what was lost though nothing else happens.
  class Subscriber {
   public:
    explicit Subscriber(uring::Loop& loop) : loop_(loop) {}
    Subscriber(const Subscriber&) = delete;
    Subscriber& operator=(const Subscriber&) = delete;
    /// drop_lost() for all that it has. On the loop's thread.
    virtual void on_region_lost() noexcept = 0;

   protected:
    ~Subscriber() = default;

   private:
    friend class MemoryRegistry;
    uring::Loop& loop_;
    const std::shared_ptr<const int> life_ = std::make_shared<const int>();
  };

  /// At most `max_regions` are registered: each costs two descriptors more.
  explicit MemoryRegistry(RegistrationScope extent,
                          std::shared_ptr<PeerLog> log = std::make_shared<PeerLog>(),
                          std::size_t max_regions = kMaxRegistered) noexcept;
  MemoryRegistry(const MemoryRegistry&) = delete;
  MemoryRegistry& operator=(const MemoryRegistry&) = delete;
  ~MemoryRegistry();

  /// The memory that rings use from now on. Regions that stay are not made ready again.
  void set_memory(const mem::GuestMemory& memory);
  /// Grows whenever register_ready() would give something else than before.
  [[nodiscard]] std::uint32_t generation() const noexcept {
    return generation_.load(std::memory_order_acquire);
  }
  /// Registers those regions of `memory` with the caller's ring that are ready, the largest first,
  /// as far as the front-end's share of the ring's table goes.
  [[nodiscard]] Registrations register_ready(uring::RegisteredBuffers& table,
                                             const mem::GuestMemory& memory);
  // On the taker's loop's thread, where it also ends.
  void subscribe(Subscriber& taker);
  void unsubscribe(Subscriber& taker) noexcept;
  /// Lets the lost ones of what register_ready() gave go.
  void unregister_lost(Registrations& taken) noexcept;
  /// Asks the files how much of them is there: whether all of it has come, or some has gone that no
  /// operation has met. A system call a region; for now and then.
  void check_residency() noexcept;

 private:
  void on_memory_changed() noexcept override { check_residency(); }
  void start_working();
  void work(const std::stop_token& stop);
  void end_lost(Area& area, std::unique_lock<std::mutex>& lock) noexcept;
  void subscribe_to(Area& area) noexcept;
  [[nodiscard]] std::shared_ptr<Area> next_job() const noexcept;
  void prepare(Area& area, const std::stop_token& stop);
  Result<> watch(Area& area) const;
  [[nodiscard]] std::vector<std::shared_ptr<Area>> find_ready(const mem::GuestMemory& memory);
  [[nodiscard]] Result<uring::RegisteredBuffers::Registration> register_with(
      uring::RegisteredBuffers& table, Area& area);
  void compare_blocks(Area& area) noexcept;
  void lose(Area& area) noexcept;
  void tell(const Error& refusal) noexcept;
  void tell_elsewhere() noexcept;
  void tell_unwatched(const Error& refusal) noexcept;

  const RegistrationScope extent_;
  const std::size_t max_regions_;
  const bool can_be_shared_;  // by all rings, what one has pinned
  const std::shared_ptr<PeerLog> log_;
  std::atomic<std::uint32_t> generation_ = 0;
  std::shared_ptr<MemoryMonitor> news_;           // or nothing yet; the thread's
  std::atomic<bool> was_told_ = false;            // of a refusal
  std::atomic<bool> was_told_elsewhere_ = false;  // that memory is in files of other kinds
  std::atomic<bool> was_told_unwatched_ = false;  // that pages cannot be watched
  std::atomic<bool> was_told_unheard_ = false;    // that there is no news
  // Guards all below, and the areas' states. News is told under a lock of its own, which comes
  // first: so no area goes while this is held.
  std::mutex mutex_;
  std::condition_variable_any has_job_;
  std::vector<std::shared_ptr<Area>> areas_;
  std::vector<Subscriber*> subscribers_;
  std::jthread thread_;  // from the first region on; goes first
};

}  // namespace guestio::registered
