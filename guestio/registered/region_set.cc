// SPDX-License-Identifier: MIT
#include "guestio/registered/region_set.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "guestio/registered/residency.h"

namespace guestio::registered {

RegionSet::~RegionSet() {
  // Declared before the lock: the regions, and with them their subscriptions, end after it.
  std::vector<std::shared_ptr<Region>> last;
  const std::scoped_lock lock(mutex_);
  regions_.swap(last);
}

bool RegionSet::replace(const mem::GuestMemory& memory, std::size_t max_regions) {
  Region::Owner& owner = *this;
  std::vector<std::shared_ptr<Region>> wanted;  // later the old ones, which end after the lock
  const std::scoped_lock lock(mutex_);
  for (const mem::RegionSpec& spec : memory.specs()) {
    if (!has_whole_pages(spec)) continue;
    const auto known =
        std::ranges::find_if(regions_, [&](const auto& region) { return region->is_same(spec); });
    auto region = known != regions_.end() ? *known : std::make_shared<Region>(owner, spec);
    // The largest are prepared first: they have the better claim to a share of a table.
    const auto place =
        std::ranges::upper_bound(wanted, region->bytes.size(), std::ranges::greater(),
                                 [](const auto& one) { return one->bytes.size(); });
    wanted.insert(place, std::move(region));
  }
  if (wanted.size() > max_regions) wanted.resize(max_regions);
  regions_.swap(wanted);
  for (const auto& region : wanted) {
    if (std::ranges::find(regions_, region) == regions_.end()) region->unwanted.request_stop();
  }
  if (!next_job()) return false;
  has_job_.notify_one();
  return true;
}

std::shared_ptr<Region> RegionSet::next_job() const noexcept {
  const auto found = std::ranges::find_if(regions_, [](const auto& region) {
    return region->state == Region::State::kWanted || region->state == Region::State::kLost;
  });
  return found == regions_.end() ? nullptr : *found;
}

RegionSet::Job RegionSet::wait_for_job(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  if (!has_job_.wait(lock, stop, [this] { return next_job() != nullptr; })) return {};
  auto region = next_job();
  const bool is_lost = region->state == Region::State::kLost;
  return {std::move(region), is_lost};
}

void RegionSet::finish(Region& region, Region::State state) noexcept {
  const std::scoped_lock lock(mutex_);
  region.state = state;
  if (state != Region::State::kReady) return;
  generation_.fetch_add(1, std::memory_order_release);
  // A notice during the preparation found this region not ready. The pages that it brought in also
  // count for the other regions of its file.
  for (const auto& one : regions_) {
    if (one->state == Region::State::kReady) compare_blocks(*one);
  }
}

RegionSet::Remains RegionSet::release(Region& region) noexcept {
  const std::scoped_lock lock(mutex_);
  region.state = Region::State::kRefused;
  return {std::exchange(region.pinned, std::nullopt),
          std::exchange(region.subscription, std::nullopt)};
}

std::vector<std::shared_ptr<Region>> RegionSet::find_ready(const mem::GuestMemory& memory) {
  const auto specs = memory.specs();
  std::vector<std::shared_ptr<Region>> ready;
  const std::scoped_lock lock(mutex_);
  for (const auto& region : regions_) {
    const bool is_part =
        std::ranges::any_of(specs, [&](const auto& spec) { return region->is_same(spec); });
    if (is_part && region->state == Region::State::kReady) ready.push_back(region);
  }
  return ready;
}

Result<uring::RegisteredBuffers::Registration> RegionSet::register_pinned(
    Region& region, uring::RegisteredBuffers& table, const void* owner) {
  const std::scoped_lock lock(mutex_);
  if (!region.pinned) return fail(ErrorKind::kClosed, "region lost during its registration");
  return table.add(*region.pinned, region.guard ? &region : nullptr, owner);
}

bool RegionSet::is_ready(const Region& region) noexcept {
  const std::scoped_lock lock(mutex_);
  return region.state == Region::State::kReady;
}

void RegionSet::check_residency() noexcept {
  const std::scoped_lock lock(mutex_);
  for (const auto& region : regions_) {
    if (region->state == Region::State::kIncomplete && is_resident(region->fd)) {
      region->state = Region::State::kWanted;
      has_job_.notify_one();
    } else if (region->state == Region::State::kReady) {
      compare_blocks(*region);
    }
  }
}

void RegionSet::on_pages_lost(Region& region) noexcept {
  const std::scoped_lock lock(mutex_);
  mark_lost(region);
}

/// A file with fewer blocks than at the last check has lost pages. It may have more: other regions
/// of it bring in theirs. Requires: the mutex, and a ready region.
void RegionSet::compare_blocks(Region& region) noexcept {
  const std::int64_t now = file_blocks(region.fd);
  if (now < region.blocks) return mark_lost(region);
  region.blocks = now;
}

/// Requires: the mutex.
void RegionSet::mark_lost(Region& region) noexcept {
  if (region.state != Region::State::kReady) return;
  region.state = Region::State::kLost;
  generation_.fetch_add(1, std::memory_order_release);
  has_job_.notify_one();
  log_.note_lost(region.bytes.size());
}

}  // namespace guestio::registered
