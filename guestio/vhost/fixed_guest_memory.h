// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/mem/guest_memory.h"
#include "guestio/uring/fixed_memory.h"

/// Guest memory that is registered with a thread's ring, as far as the kernel allows.
namespace guestio::vhost {

/// A front-end's wish to have its memory registered, and what was said about it: once for each
/// front-end, however many rings and memory tables it has.
/// Threads: any.
class FixedGuestMemory {
 public:
  /// Goes before the memory does.
  using Registrations = std::vector<uring::FixedMemory::Registration>;

  /// Registers the regions of `memory` that can be. What is refused goes on with plain operations,
  /// and a line in the log says what can be done about it.
  [[nodiscard]] Registrations add(uring::FixedMemory& table, const mem::GuestMemory& memory);
  /// Those of its regions that are registered already, once more.
  [[nodiscard]] static Registrations share(uring::FixedMemory& table,
                                           const mem::GuestMemory& memory);

 private:
  void tell(const Error& refusal) noexcept;

  std::atomic<bool> was_told_ = false;  // of a refusal
};

}  // namespace guestio::vhost
