// SPDX-License-Identifier: MIT
#include "guestio/registered/memory_registry.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <optional>
#include <utility>

#include "guestio/base/align.h"
#include "guestio/base/log.h"
#include "guestio/base/thread.h"
#include "guestio/registered/page_guard.h"
#include "guestio/uring/setup_hint.h"

namespace guestio::registered {

namespace {

/// A file that lives in memory (shared memory, huge pages). Others are answered for by somebody who
/// may take his time over it: a FUSE server, a disk.
bool is_memory_file(int fd) noexcept { return ::fcntl(fd, F_GET_SEALS) >= 0; }

}  // namespace

/// One region.
struct MemoryRegistry::Area final : uring::BufferGuard {
  enum class State : std::uint8_t {
    kWanted,
    kIncomplete,  ///< not all of it is there
    kReady,
    kLost,     ///< some of it has gone; what is pinned is to be let go
    kRefused,  ///< or lost, and done with
  };

  Area(MemoryRegistry& area_owner, const mem::RegionSpec& spec)
      : owner(area_owner),
        backing(spec.backing),
        bytes(backing->mapping().subspan(spec.offset, spec.length.raw())) {
    const auto files = backing->shareable_ranges();
    if (files.empty()) return;
    is_elsewhere = files.size() != 1 || files.front().offset > spec.offset ||
                   !is_memory_file(files.front().fd);
    if (is_elsewhere) return;
    fd = files.front().fd;
    offset = files.front().file_offset.plus_unchecked(spec.offset - files.front().offset);
  }

  [[nodiscard]] bool is(const mem::RegionSpec& spec) const noexcept {
    return spec.backing == backing && backing->mapping().data() + spec.offset == bytes.data() &&
           spec.length == ByteCount(bytes.size());
  }
  [[nodiscard]] bool is_resident(const std::byte* data, std::size_t size) const noexcept override {
    return watch->holds(static_cast<std::size_t>(data - bytes.data()), size);
  }
  void prefetch(const std::byte* data, std::size_t size) const noexcept override {
    watch->prefetch(static_cast<std::size_t>(data - bytes.data()), size);
  }
  void on_unregistered() noexcept override {
    const std::scoped_lock lock(owner.mutex_);
    owner.lose(*this);
  }

  MemoryRegistry& owner;
  const std::shared_ptr<mem::Backing> backing;  // keeps address and file
  const std::span<std::byte> bytes;
  int fd = -1;                // of a memory file, or none
  bool is_elsewhere = false;  // in a file of another kind
  FileOffset offset;
  State state = State::kWanted;
  std::stop_source unwanted;  // told when the work on it is to end
  // The worker's until kReady; then the watch is anybody's, the rest is guarded.
  std::optional<PageGuard> watch;
  std::optional<uring::PinnedBuffers> pinned;
  std::optional<MemoryMonitor::Subscription> news;
  std::int64_t blocks = 0;  // of the file, when it was last asked
};

namespace {

/// What a file occupies, in units of 512 bytes, or nothing where it cannot be asked.
std::int64_t blocks_of(int fd) noexcept {
  struct stat status{};
  return fd >= 0 && ::fstat(fd, &status) == 0 ? status.st_blocks : 0;
}

bool is_resident(int fd) noexcept {
  struct stat status{};
  return fd >= 0 && ::fstat(fd, &status) == 0 && status.st_size > 0 &&
         status.st_blocks >= status.st_size / 512;
}

/// Memory of a region that can be registered at all: pages are watched and pinned as a whole, so a
/// region has to consist of whole ones.
bool has_pages(const mem::RegionSpec& spec) noexcept {
  const std::span<std::byte> mapping = spec.backing->mapping();
  return spec.backing->access() == Mapping::Access::kReadWrite &&
         fits_within(spec.offset, spec.length.raw(), mapping.size()) &&
         is_aligned(
             reinterpret_cast<std::uintptr_t>(mapping.data()) | spec.offset | spec.length.raw(),
             kPageSize);
}

}  // namespace

// The kernel is asked here and not where the answer is needed: by the thread that makes the others.
MemoryRegistry::MemoryRegistry(RegistrationScope extent, std::shared_ptr<PeerLog> log,
                               std::size_t max_regions) noexcept
    : extent_(extent),
      max_regions_(max_regions),
      can_be_shared_(uring::PinnedBuffers::can_clone()),
      log_(std::move(log)) {}

MemoryRegistry::~MemoryRegistry() {
  thread_ = {};
  // News may still come, until the last area has gone; and none goes under the lock.
  std::vector<std::shared_ptr<Area>> last;
  const std::scoped_lock lock(mutex_);
  areas_.swap(last);
}

void MemoryRegistry::set_memory(const mem::GuestMemory& memory) {
  std::vector<std::shared_ptr<Area>> wanted;  // and then those of before, which end unlocked
  const std::scoped_lock lock(mutex_);
  for (const mem::RegionSpec& spec : memory.specs()) {
    if (!has_pages(spec)) continue;
    const auto known =
        std::ranges::find_if(areas_, [&](const auto& area) { return area->is(spec); });
    auto area = known != areas_.end() ? *known : std::make_shared<Area>(*this, spec);
    // The larger ones are made ready first: theirs is the better claim to a share of a table.
    const auto place = std::ranges::upper_bound(wanted, area->bytes.size(), std::ranges::greater(),
                                                [](const auto& one) { return one->bytes.size(); });
    wanted.insert(place, std::move(area));
  }
  if (wanted.size() > max_regions_) wanted.resize(max_regions_);
  areas_.swap(wanted);
  for (const auto& area : wanted) {
    if (std::ranges::find(areas_, area) == areas_.end()) area->unwanted.request_stop();
  }
  if (!next_job()) return;
  if (thread_.joinable()) {
    has_job_.notify_one();
  } else {
    start_working();
  }
}

void MemoryRegistry::start_working() {
  auto thread = start_thread("guestio-pin", [this](const std::stop_token& stop) { work(stop); });
  // Tried again with the next memory.
  if (!thread) return tell(thread.error());
  thread_ = std::move(*thread);
}

std::shared_ptr<MemoryRegistry::Area> MemoryRegistry::next_job() const noexcept {
  const auto found = std::ranges::find_if(areas_, [](const auto& area) {
    return area->state == Area::State::kWanted || area->state == Area::State::kLost;
  });
  return found == areas_.end() ? nullptr : *found;
}

void MemoryRegistry::work(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (has_job_.wait(lock, stop, [this] { return next_job() != nullptr; })) {
    auto area = next_job();
    if (area->state == Area::State::kLost) {
      end_lost(*area, lock);
    } else {
      lock.unlock();
      prepare(*area, stop);
    }
    // It may be wanted no more, and this the last that holds it: not under the lock.
    area.reset();
    lock.lock();
  }
}

/// Rings let go by themselves when an operation meets the gap; those that have none do when told.
/// Leaves the lock open.
void MemoryRegistry::end_lost(Area& area, std::unique_lock<std::mutex>& lock) noexcept {
  area.state = Area::State::kRefused;
  auto pinned = std::exchange(area.pinned, std::nullopt);
  auto news = std::exchange(area.news, std::nullopt);
  for (Subscriber* const taker : subscribers_) {
    taker->loop_.post([taker, life = std::weak_ptr(taker->life_)] {
      if (!life.expired()) taker->on_region_lost();
    });
  }
  lock.unlock();
}

/// The pages are watched first and pinned then: what goes between the two is noticed.
void MemoryRegistry::prepare(Area& area, const std::stop_token& stop) {
  const auto end = [&](Area::State state) {
    const std::scoped_lock lock(mutex_);
    area.state = state;
    if (state != Area::State::kReady) return;
    generation_.fetch_add(1, std::memory_order_release);
    // News of what went meanwhile found nothing that was ready; and what this one has brought in is
    // more for the others of its file as well.
    for (const auto& one : areas_) {
      if (one->state == Area::State::kReady) compare_blocks(*one);
    }
  };
  const std::stop_callback also_at_the_end(stop, [&area] { area.unwanted.request_stop(); });
  if (area.is_elsewhere) {
    tell_elsewhere();
    return end(Area::State::kRefused);
  }
  if (extent_ == RegistrationScope::kResidentOnly && !is_resident(area.fd)) {
    return end(Area::State::kIncomplete);
  }
  if (auto watched = watch(area); !watched) {
    area.watch.reset();
    if (watched.error().kind == ErrorKind::kCancelled) return end(Area::State::kRefused);
    tell_unwatched(watched.error());
    if (extent_ == RegistrationScope::kResidentOnly) return end(Area::State::kRefused);
  }
  subscribe_to(area);
  // What is watched is all there by now.
  if (area.watch) area.blocks = blocks_of(area.fd);
  if (can_be_shared_) {
    auto pinned = uring::PinnedBuffers::pin(area.bytes, area.unwanted.get_token());
    if (!pinned) {
      if (pinned.error().kind != ErrorKind::kCancelled) tell(pinned.error());
      return end(Area::State::kRefused);
    }
    area.pinned.emplace(std::move(*pinned));
  } else if (extent_ == RegistrationScope::kResidentOnly) {
    // Each ring would have to pin for itself, while it has I/O to do: only who asks for it.
    return end(Area::State::kRefused);
  }
  if (!area.watch) area.blocks = blocks_of(area.fd);
  end(Area::State::kReady);
  log::debug("{}: {} KiB of guest memory are pinned", log_->name, area.bytes.size() >> 10U);
}

/// Without news, a disk that is idle notices at its next request.
void MemoryRegistry::subscribe_to(Area& area) noexcept {
  if (area.fd < 0) return;
  if (!news_) {
    auto news = MemoryMonitor::of_process();
    if (!news) {
      log::debug("{}: no news of guest memory: {}", log_->name, news.error().to_string());
      return;
    }
    news_ = std::move(*news);
  }
  area.news.emplace(news_->subscribe(area.fd, *this));
  if (area.news->is_file_watched() || was_told_unheard_.exchange(true)) return;
  log::info(
      "{}: no news of guest memory's file: what the guest gives back while its disk is idle is let "
      "go later (raise fs.inotify.max_user_instances and max_user_watches, and let this user read "
      "the file)",
      log_->name);
}

Result<> MemoryRegistry::watch(Area& area) const {
  // A few milliseconds each, so that whoever ends this need not wait.
  constexpr std::size_t kStep = std::size_t{16} << 20;
  if (area.fd < 0) return fail(ErrorKind::kUnsupported, "watching memory that is no file");
  auto made = PageGuard::create(area.fd, area.offset, ByteCount(area.bytes.size()));
  if (!made) return fail(made.error());
  area.watch.emplace(std::move(*made));
  const std::size_t step = std::max(kStep, area.watch->page_size());
  for (std::size_t at = 0; at < area.bytes.size(); at += step) {
    if (area.unwanted.stop_requested()) return fail(ErrorKind::kCancelled, "watch guest memory");
    if (auto covered = area.watch->cover(at, std::min(step, area.bytes.size() - at)); !covered) {
      return covered;
    }
  }
  return {};
}

MemoryRegistry::Registrations MemoryRegistry::register_ready(uring::RegisteredBuffers& table,
                                                             const mem::GuestMemory& memory) {
  Registrations taken;
  for (auto& area : find_ready(memory)) {
    auto registration = register_with(table, *area);
    if (registration) {
      taken.push_back({std::move(area), std::move(*registration)});
    } else if (registration.error().kind != ErrorKind::kClosed) {
      tell(registration.error());
    }
  }
  return taken;
}

std::vector<std::shared_ptr<MemoryRegistry::Area>> MemoryRegistry::find_ready(
    const mem::GuestMemory& memory) {
  const auto specs = memory.specs();
  std::vector<std::shared_ptr<Area>> ready;
  const std::scoped_lock lock(mutex_);
  for (const auto& area : areas_) {
    const bool is_meant =
        std::ranges::any_of(specs, [&](const auto& spec) { return area->is(spec); });
    if (is_meant && area->state == Area::State::kReady) ready.push_back(area);
  }
  return ready;
}

Result<uring::RegisteredBuffers::Registration> MemoryRegistry::register_with(
    uring::RegisteredBuffers& table, Area& area) {
  // As another ring of the thread did, or this one before.
  if (auto shared = table.share(area.bytes)) return shared;
  const std::size_t left =
      table.slot_quota() - std::min(table.slot_quota(), table.slots_used_by(this));
  if (const std::size_t needed = table.slots_needed(area.bytes); needed > left) {
    return fail(ErrorKind::kTooLarge, "one disk's share of the registered memory of a thread",
                needed, left);
  }
  uring::BufferGuard* const guard = area.watch ? &area : nullptr;
  if (!can_be_shared_) return table.add(area.bytes, guard, this);
  const std::scoped_lock lock(mutex_);
  if (!area.pinned) return fail(ErrorKind::kClosed, "memory that was lost meanwhile");
  return table.add(*area.pinned, guard, this);
}

void MemoryRegistry::subscribe(Subscriber& taker) {
  const std::scoped_lock lock(mutex_);
  subscribers_.push_back(&taker);
}

void MemoryRegistry::unsubscribe(Subscriber& taker) noexcept {
  const std::scoped_lock lock(mutex_);
  std::erase(subscribers_, &taker);
}

void MemoryRegistry::unregister_lost(Registrations& taken) noexcept {
  std::unique_lock lock(mutex_);
  const auto lost = std::ranges::partition(
      taken, [](const RegisteredRegion& one) { return one.area->state == Area::State::kReady; });
  lock.unlock();
  taken.erase(lost.begin(), lost.end());
}

void MemoryRegistry::check_residency() noexcept {
  const std::scoped_lock lock(mutex_);
  for (const auto& area : areas_) {
    if (area->state == Area::State::kIncomplete && is_resident(area->fd)) {
      area->state = Area::State::kWanted;
      has_job_.notify_one();
    } else if (area->state == Area::State::kReady) {
      compare_blocks(*area);
    }
  }
}

/// Whether the file has less than when it was last asked. Other regions of it may have brought in
/// more since the area was pinned. Requires: the mutex, and an area that is ready.
void MemoryRegistry::compare_blocks(Area& area) noexcept {
  const std::int64_t now = blocks_of(area.fd);
  if (now < area.blocks) return lose(area);
  area.blocks = now;
}

/// Requires: the mutex.
void MemoryRegistry::lose(Area& area) noexcept {
  if (area.state != Area::State::kReady) return;
  area.state = Area::State::kLost;
  generation_.fetch_add(1, std::memory_order_release);
  has_job_.notify_one();
  log::rate_limited_info(
      log_->connections,
      "{}: the guest gives memory back: a region of {} KiB is used unregistered from "
      "now on, which only costs time",
      log_->name, area.bytes.size() >> 10U);
}

void MemoryRegistry::tell(const Error& refusal) noexcept {
  // Relaxed: the flag guards nothing but the line.
  if (was_told_.exchange(true, std::memory_order_relaxed)) return;
  const bool is_short = refusal.kind == ErrorKind::kHost && refusal.host_errno == ENOMEM;
  log::warning(
      "{}: guest memory stays unregistered, which only costs time: {}; {}, use shared memory in "
      "few regions, give many disks more --threads, or choose --fixed-buffers off",
      log_->name, refusal.to_string(),
      is_short ? uring::memlock_limit_hint() : "raise the memory-lock limit");
}

/// Somebody else answers for its pages, a FUSE server or a disk, and may take his time over it:
/// that would be the time of whoever pins them, and so that of the connection's end.
void MemoryRegistry::tell_elsewhere() noexcept {
  if (extent_ == RegistrationScope::kResidentOnly) return;
  if (was_told_elsewhere_.exchange(true, std::memory_order_relaxed)) return;
  log::warning(
      "{}: guest memory in a file that is no memory file stays unregistered, which only costs time "
      "(use memory-backend-memfd, or a file of tmpfs or hugetlbfs)",
      log_->name);
}

void MemoryRegistry::tell_unwatched(const Error& refusal) noexcept {
  if (was_told_unwatched_.exchange(true, std::memory_order_relaxed)) return;
  if (extent_ == RegistrationScope::kResidentOnly) {
    log::debug("{}: guest memory stays unregistered: {}", log_->name, refusal.to_string());
    return;
  }
  log::warning(
      "{}: guest memory is registered though its pages cannot be watched: {} (a guest that gives "
      "memory back while it runs would lose data: no balloon, no free page reporting, no "
      "virtio-mem)",
      log_->name, refusal.to_string());
}

}  // namespace guestio::registered
