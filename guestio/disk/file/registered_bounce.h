// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "guestio/buf/bounce_account.h"
#include "guestio/uring/registered_buffers.h"

/// Bounce memory that is registered with a thread's ring.
namespace guestio::disk {

/// Whether bounce memory is registered. It is ours, and nobody but us can take its pages away: safe
/// for any guest.
enum class BounceRegistration : std::uint8_t {
  kPlain,
  kIfUnlimited,  ///< where it takes nothing from others (uring::is_memlock_unlimited())
  kRegistered,   ///< as far as the kernel allows
};

/// One channel's registrations of the slabs that its bounce buffers come from. A slab costs memory
/// that counts against the memory-lock limit, so it is registered when it is first used and not
/// before. After a refusal no more is asked for: what is registered by then stays so, the rest is
/// plain, and one line in the log of the process says what can be done.
///
/// Threads: the ring's. Lifetime: goes before the account, the ring and the name do.
class RegisteredBounce {
 public:
  /// `name`: of the disk, the subject of that line.
  RegisteredBounce(uring::RegisteredBuffers& fixed, buf::BounceAccount& account,
                   BounceRegistration kind, const std::string& name) noexcept
      : name_(name),
        fixed_(fixed),
        account_(account),
        may_register_(kind == BounceRegistration::kRegistered ||
                      (kind == BounceRegistration::kIfUnlimited && uring::is_memlock_unlimited())) {
  }

  /// Sees to it that `buffer` is registered, if it can be. Requires: it has bytes.
  void cover(const buf::TrackedBounceBuffer& buffer) noexcept {
    if (may_register_ && !fixed_.find(buffer.bytes().data(), buffer.size())) add(buffer);
  }

 private:
  void add(const buf::TrackedBounceBuffer& buffer) noexcept;

  const std::string& name_;
  uring::RegisteredBuffers& fixed_;
  buf::BounceAccount& account_;
  bool may_register_;
  std::vector<uring::RegisteredBuffers::Registration> slabs_;
};

}  // namespace guestio::disk
