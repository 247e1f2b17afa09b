// SPDX-License-Identifier: MIT
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/mem/backing.h"
#include "guestio/task/task.h"
#include "guestio/vhost/session/memory_table.h"
#include "guestio/vhost/session/postcopy_handlers.h"
#include "guestio/vhost/session/reply.h"
#include "guestio/vhost/session/session_context.h"

namespace guestio::vhost {

/// Messages about guest memory. Rings run on meanwhile: requests in flight finish on the memory
/// under which they were taken.
///
/// Threads: the control thread. Lifetime: context and post-copy handlers outlive it.
class MemoryHandlers {
 public:
  /// Removed regions that requests in flight may keep, beyond the memory slots.
  static constexpr std::size_t kMaxStaleRegions = 16;

  MemoryHandlers(SessionContext& session, PostcopyHandlers& postcopy) noexcept
      : session_(session), postcopy_(postcopy) {}

  task::Task<Result<Reply>> handle_set_mem_table();
  [[nodiscard]] Result<Reply> handle_get_max_mem_slots() const;
  task::Task<Result<Reply>> handle_add_mem_reg();
  task::Task<Result<Reply>> handle_rem_mem_reg();

  // For a takeover.

  /// Empty without memory. Errors: host.
  [[nodiscard]] Result<std::vector<MemoryRegionState>> snapshot() const;
  /// Errors: of MemoryTable::map().
  Result<> restore(std::vector<MemoryRegionState> regions);

 private:
  Result<> count_regions(const MemoryTable& memory);
  void use_memory(std::shared_ptr<const MemoryTable> memory);
  task::Task<Result<>> update_rings();
  task::Task<Result<Reply>> change_slots(std::shared_ptr<const MemoryTable> memory);

  SessionContext& session_;
  PostcopyHandlers& postcopy_;
  /// Regions of the present memory, and of earlier memory still in use.
  std::map<const mem::Backing*, std::weak_ptr<mem::Backing>> mapped_;
};

}  // namespace guestio::vhost
