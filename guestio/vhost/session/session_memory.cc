// SPDX-License-Identifier: MIT
// A session's messages about the guest's memory. Rings go on meanwhile: what they took before is
// done on the memory from before.
#include "guestio/vhost/session/session.h"

namespace guestio::vhost {

void Session::use_memory(std::shared_ptr<const MemoryTable> memory) {
  memory_ = std::move(memory);
  if (parts_.fixed) parts_.fixed->set_memory(memory_ ? memory_->memory() : mem::GuestMemory());
}

/// Each region holds a descriptor, and requests in flight hold those of their memory: a front-end
/// that changes its memory while the disk stands still could use up those of other disks.
Result<> Session::count_regions(const MemoryTable& memory) {
  std::erase_if(mapped_, [](const auto& region) { return region.second.expired(); });
  auto all = mapped_;
  for (const mem::RegionSpec& spec : memory.memory().specs()) {
    all.insert_or_assign(spec.backing.get(), spec.backing);
  }
  const std::size_t limit = parts_.memory_slots + kMaxStaleRegions;
  if (all.size() > limit) {
    return fail(ErrorKind::kTooLarge, "memory regions, with those of requests in flight",
                all.size(), limit);
  }
  mapped_ = std::move(all);
  return {};
}

task::Task<Result<>> Session::move_rings_to_memory() {
  Result<> outcome;
  for (const auto& ring : rings_) {
    auto changing = ring->change_memory(context());
    const auto changed = co_await std::move(changing);
    if (!changed) {
      outcome = changed;
      continue;
    }
    // A ring may have waited for memory only.
    auto starting = start_if_ready(*ring);
    const auto started = co_await std::move(starting);
    if (!started) outcome = started;
  }
  co_return outcome;
}

task::Task<Result<Session::Answer>> Session::set_memory_table() {
  if (is_end_of_memory_news()) co_return Answer::silence();
  MemoryTableHeader header{};
  if (message_.header.size < sizeof header) {
    co_return fail(Error::peer_fault("the size of a memory table", message_.header.size));
  }
  std::memcpy(&header, message_.bytes.data(), sizeof header);
  std::array<MemoryRegion, kMaxRegions> regions;
  const std::size_t bytes = std::size_t{header.num_regions} * sizeof(MemoryRegion);
  // A message may be longer than its regions (User Mode Linux sends a table of two for one).
  if (header.num_regions > regions.size() || message_.header.size < sizeof header + bytes) {
    co_return fail(Error::peer_fault("number of memory regions beyond the message's size",
                                     header.num_regions));
  }
  std::memcpy(regions.data(), message_.bytes.data() + sizeof header, bytes);
  auto mapped =
      MemoryTable::map(std::span(regions).first(header.num_regions), message_.descriptors);
  if (!mapped) co_return fail(mapped.error());
  if (auto counted = count_regions(**mapped); !counted) co_return fail(counted.error());
  use_memory(std::move(*mapped));
  if (auto watched = watch_arriving_memory(); !watched) co_return fail(watched.error());
  auto moving = move_rings_to_memory();
  const auto moved = co_await std::move(moving);
  if (!moved) co_return fail(moved.error());
  if (is_memory_arriving_) co_return tell_addresses(sizeof header, header.num_regions);
  co_return Answer::none();
}

Result<Session::Answer> Session::get_max_memory_slots() const {
  if (auto wanted = require_feature(kProtocolConfigureMemSlots); !wanted)
    return fail(wanted.error());
  return Answer::of(std::uint64_t{parts_.memory_slots});
}

task::Task<Result<Session::Answer>> Session::add_memory_region() {
  if (auto wanted = require_feature(kProtocolConfigureMemSlots); !wanted)
    co_return fail(wanted.error());
  if (is_end_of_memory_news()) co_return Answer::silence();
  const auto message = payload_as<SingleMemoryRegion>();
  if (!message) co_return fail(message.error());
  auto table = memory_ ? memory_->with(message->region, message_.descriptors, parts_.memory_slots)
                       : MemoryTable::map(std::span(&message->region, 1), message_.descriptors);
  if (!table) co_return fail(table.error());
  if (auto counted = count_regions(**table); !counted) co_return fail(counted.error());
  auto changing = change_slots(std::move(*table));
  auto changed = co_await std::move(changing);
  if (changed && is_memory_arriving_) {
    co_return tell_addresses(offsetof(SingleMemoryRegion, region), 1);
  }
  co_return changed;
}

task::Task<Result<Session::Answer>> Session::remove_memory_region() {
  if (auto wanted = require_feature(kProtocolConfigureMemSlots); !wanted)
    co_return fail(wanted.error());
  const auto message = payload_as<SingleMemoryRegion>();
  if (!message) co_return fail(message.error());
  // None is needed; some front-ends send one all the same, and it is closed.
  if (message_.descriptors.size() > 1) {
    co_return fail(Error::peer_fault("descriptors of a region that goes"));
  }
  if (!memory_) co_return fail(ErrorKind::kOutOfRange, "a memory region that was added");
  auto table = memory_->without(message->region);
  if (!table) co_return fail(table.error());
  auto changing = change_slots(std::move(*table));
  co_return co_await std::move(changing);
}

/// A front-end that changes a region takes it out and puts it in again: a ring that lies in it
/// stands still meanwhile, which is no failure of either message.
task::Task<Result<Session::Answer>> Session::change_slots(
    std::shared_ptr<const MemoryTable> memory) {
  use_memory(std::move(memory));
  if (auto watched = watch_arriving_memory(); !watched) co_return fail(watched.error());
  auto moving = move_rings_to_memory();
  const auto moved = co_await std::move(moving);
  if (!moved && moved.error().kind != ErrorKind::kOutOfRange) co_return fail(moved.error());
  co_return Answer::none();
}

}  // namespace guestio::vhost
