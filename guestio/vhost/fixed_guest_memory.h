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
#include "guestio/mem/guest_memory.h"
#include "guestio/uring/fixed_memory.h"
#include "guestio/vhost/peer_log.h"

/// Guest memory that is registered with the threads' rings, as far as that is safe and allowed.
namespace guestio::vhost {

/// Which of a front-end's memory is registered.
enum class FixedExtent : std::uint8_t {
  kWhereAllThere,  ///< files whose pages are all there: guests that do not share out their memory
  kAll,            ///< what is not there yet is brought in
};

/// A front-end's memory, registered: once for each front-end, however many rings and tables it has.
///
///     session: want() --> a thread: watch the pages, pin them --> rings: take()
///                                        ^                            |
///                                   let them go <-- a page is not what it was
///
/// Registered pages stay what they were when the guest gives pages back (balloon, free page
/// reporting, virtio-mem): what moves through one of those is lost. So pages are watched
/// (mem::PageWatch), operations ask before they name a piece, and a region that has lost a page is
/// registered no more. Where pages cannot be watched, kWhereAllThere does without; kAll says so
/// once and goes on: then it is only right for guests that never give memory back.
///
/// Nothing waits for it: rings run from the start, on plain operations until memory is ready. What
/// is refused stays plain, and a line in the log says what can be done about it.
///
/// Threads: any. Lifetime: outlives what take() gave.
class FixedGuestMemory {
  struct Area;

 public:
  /// One region's registration with one ring, and what it stands on.
  struct Taken {
    std::shared_ptr<Area> area;
    uring::FixedMemory::Registration registration;  // goes first
  };
  /// Goes before the memory does, on the ring's thread.
  using Registrations = std::vector<Taken>;

  explicit FixedGuestMemory(FixedExtent extent,
                            std::shared_ptr<PeerLog> log = std::make_shared<PeerLog>()) noexcept;
  FixedGuestMemory(const FixedGuestMemory&) = delete;
  FixedGuestMemory& operator=(const FixedGuestMemory&) = delete;
  ~FixedGuestMemory();

  /// The memory that rings use from now on. Regions that stay are not made ready again.
  void want(const mem::GuestMemory& memory);
  /// Grows whenever take() would give something else than before.
  [[nodiscard]] std::uint32_t changes() const noexcept {
    return changes_.load(std::memory_order_acquire);
  }
  /// Registers those regions of `memory` with the caller's ring that are ready.
  [[nodiscard]] Registrations take(uring::FixedMemory& table, const mem::GuestMemory& memory);
  /// Asks the files how much of them is there: whether all of it has come, or some has gone that no
  /// operation has met. A system call a region; for now and then.
  void look_after() noexcept;

 private:
  void start_working();
  void work(const std::stop_token& stop);
  [[nodiscard]] std::shared_ptr<Area> next_job() const noexcept;
  void prepare(Area& area, const std::stop_token& stop);
  Result<> watch(Area& area, const std::stop_token& stop) const;
  [[nodiscard]] std::shared_ptr<Area> find_ready(const mem::RegionSpec& spec);
  [[nodiscard]] Result<uring::FixedMemory::Registration> register_with(uring::FixedMemory& table,
                                                                       Area& area);
  void lose(Area& area) noexcept;
  void tell(const Error& refusal) noexcept;
  void tell_unwatched(const Error& refusal) noexcept;

  const FixedExtent extent_;
  const bool can_be_shared_;  // by all rings, what one has pinned
  const std::shared_ptr<PeerLog> log_;
  std::atomic<std::uint32_t> changes_ = 0;
  std::atomic<bool> was_told_ = false;            // of a refusal
  std::atomic<bool> was_told_unwatched_ = false;  // that pages cannot be watched
  std::mutex mutex_;                              // guards all below, and the areas' states
  std::condition_variable_any has_job_;
  std::vector<std::shared_ptr<Area>> areas_;
  std::jthread thread_;  // from the first region on; goes first
};

}  // namespace guestio::vhost
