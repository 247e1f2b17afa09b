// SPDX-License-Identifier: MIT
#include "guestio/vhost/session/memory_handlers.h"

#include <array>
#include <cstddef>
#include <cstring>
#include <span>
#include <utility>

namespace guestio::vhost {

void MemoryHandlers::use_memory(std::shared_ptr<const MemoryTable> memory) {
  session_.memory = std::move(memory);
  if (!session_.parts.registry) return;
  session_.parts.registry->set_memory(session_.memory ? session_.memory->memory()
                                                      : mem::GuestMemory());
}

/// Each region holds a descriptor, and requests in flight hold those of their memory. A front-end
/// that changes its memory while the disk stalls could use up the descriptors of other disks.
Result<> MemoryHandlers::count_regions(const MemoryTable& memory) {
  std::erase_if(mapped_, [](const auto& region) { return region.second.expired(); });
  auto all = mapped_;
  for (const mem::RegionSpec& spec : memory.memory().specs()) {
    all.insert_or_assign(spec.backing.get(), spec.backing);
  }
  const std::size_t limit = session_.parts.memory_slots + kMaxStaleRegions;
  if (all.size() > limit) {
    return fail(ErrorKind::kTooLarge, "memory regions, with those of requests in flight",
                all.size(), limit);
  }
  mapped_ = std::move(all);
  return {};
}

/// Puts all rings on the present memory and starts those that lacked only memory. Errors: the last
/// one of a ring.
task::Task<Result<>> MemoryHandlers::update_rings() {
  Result<> outcome;
  for (const auto& ring : session_.rings) {
    const auto changed = co_await ring->change_memory(session_.ring_context());
    if (!changed) {
      outcome = changed;
      continue;
    }
    const auto started = co_await session_.start_if_ready(*ring);
    if (!started) outcome = started;
  }
  co_return outcome;
}

task::Task<Result<Reply>> MemoryHandlers::handle_set_mem_table() {
  if (postcopy_.is_end_of_memory_messages()) co_return Reply::never();
  const Message& message = session_.message;
  MemoryTableHeader header{};
  if (message.header.size < sizeof header) {
    co_return fail(Error::peer_fault("SET_MEM_TABLE without a header", message.header.size));
  }
  std::memcpy(&header, message.bytes.data(), sizeof header);
  std::array<MemoryRegion, kMaxRegions> regions;
  const std::size_t bytes = std::size_t{header.num_regions} * sizeof(MemoryRegion);
  // A message may be longer than its regions (User Mode Linux sends a table of two for one).
  if (header.num_regions > regions.size() || message.header.size < sizeof header + bytes) {
    co_return fail(
        Error::peer_fault("more memory regions than the message holds", header.num_regions));
  }
  std::memcpy(regions.data(), message.bytes.data() + sizeof header, bytes);
  auto mapped =
      MemoryTable::map(std::span(regions).first(header.num_regions), session_.message.descriptors);
  if (!mapped) co_return fail(mapped.error());
  if (auto counted = count_regions(**mapped); !counted) co_return fail(counted.error());
  use_memory(std::move(*mapped));
  if (auto registered = postcopy_.register_memory(); !registered) {
    co_return fail(registered.error());
  }
  const auto updated = co_await update_rings();
  if (!updated) co_return fail(updated.error());
  if (postcopy_.is_memory_arriving()) {
    co_return postcopy_.reply_with_addresses(sizeof header, header.num_regions);
  }
  co_return Reply::empty();
}

Result<Reply> MemoryHandlers::handle_get_max_mem_slots() const {
  if (auto required = session_.require_feature(kProtocolConfigureMemSlots); !required) {
    return fail(required.error());
  }
  return Reply::of(std::uint64_t{session_.parts.memory_slots});
}

task::Task<Result<Reply>> MemoryHandlers::handle_add_mem_reg() {
  if (auto required = session_.require_feature(kProtocolConfigureMemSlots); !required) {
    co_return fail(required.error());
  }
  if (postcopy_.is_end_of_memory_messages()) co_return Reply::never();
  const auto added = session_.payload_as<SingleMemoryRegion>();
  if (!added) co_return fail(added.error());
  DescriptorList& descriptors = session_.message.descriptors;
  auto table = session_.memory ? session_.memory->with_region(added->region, descriptors,
                                                              session_.parts.memory_slots)
                               : MemoryTable::map(std::span(&added->region, 1), descriptors);
  if (!table) co_return fail(table.error());
  if (auto counted = count_regions(**table); !counted) co_return fail(counted.error());
  auto changed = co_await change_slots(std::move(*table));
  if (changed && postcopy_.is_memory_arriving()) {
    co_return postcopy_.reply_with_addresses(offsetof(SingleMemoryRegion, region), 1);
  }
  co_return changed;
}

task::Task<Result<Reply>> MemoryHandlers::handle_rem_mem_reg() {
  if (auto required = session_.require_feature(kProtocolConfigureMemSlots); !required) {
    co_return fail(required.error());
  }
  const auto removed = session_.payload_as<SingleMemoryRegion>();
  if (!removed) co_return fail(removed.error());
  // None is needed. Some front-ends send one all the same, and it is closed.
  if (session_.message.descriptors.size() > 1) {
    co_return fail(Error::peer_fault("more than one descriptor with REM_MEM_REG",
                                     session_.message.descriptors.size()));
  }
  if (!session_.memory) co_return fail(ErrorKind::kOutOfRange, "memory region of REM_MEM_REG");
  auto table = session_.memory->without_region(removed->region);
  if (!table) co_return fail(table.error());
  co_return co_await change_slots(std::move(*table));
}

/// A front-end changes a region by removing and adding it. Meanwhile a ring inside it stands still,
/// which is a failure of neither message.
task::Task<Result<Reply>> MemoryHandlers::change_slots(std::shared_ptr<const MemoryTable> memory) {
  use_memory(std::move(memory));
  if (auto registered = postcopy_.register_memory(); !registered) {
    co_return fail(registered.error());
  }
  const auto updated = co_await update_rings();
  if (!updated && updated.error().kind != ErrorKind::kOutOfRange) co_return fail(updated.error());
  co_return Reply::empty();
}

Result<std::vector<MemoryRegionState>> MemoryHandlers::snapshot() const {
  if (!session_.memory) return std::vector<MemoryRegionState>();
  return session_.memory->snapshot();
}

Result<> MemoryHandlers::restore(std::vector<MemoryRegionState> regions) {
  if (regions.empty()) return {};
  auto memory = MemoryTable::map(std::move(regions));
  if (!memory) return fail(memory.error());
  // The previous process may have offered more slots; its regions are kept.
  (void)count_regions(**memory);
  use_memory(std::move(*memory));
  return {};
}

}  // namespace guestio::vhost
