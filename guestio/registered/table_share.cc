// SPDX-License-Identifier: MIT
#include "guestio/registered/table_share.h"

#include <algorithm>

namespace guestio::registered {

Result<> check_table_share(const uring::RegisteredBuffers& table, std::span<const std::byte> memory,
                           const void* owner) {
  const std::size_t share = table.slot_quota();
  const std::size_t left = share - std::min(share, table.slots_used_by(owner));
  const std::size_t needed = table.slots_needed(memory);
  if (needed <= left) return {};
  return fail(ErrorKind::kTooLarge, "one disk's share of a thread's registered memory", needed,
              left);
}

}  // namespace guestio::registered
