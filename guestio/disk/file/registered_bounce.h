// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

#include "guestio/buf/bounce_account.h"
#include "guestio/disk/file/file_disk_options.h"
#include "guestio/uring/registered_buffers.h"

namespace guestio::disk {

/// Registrations of one channel's bounce slabs with its thread's ring.
///
/// A slab counts against the memory-lock limit, so it is registered at its first use and not
/// before. After a refusal, registered slabs stay registered and the others stay plain; one log
/// line of the process names the remedy.
///
/// Threads: the ring's. Lifetime: destroyed before the account, the ring and the name.
class RegisteredBounce {
 public:
  /// `name`: of the disk, the subject of the log line.
  RegisteredBounce(uring::RegisteredBuffers& fixed, buf::BounceAccount& account,
                   BounceRegistration kind, const std::string& name) noexcept
      : name_(name),
        fixed_(fixed),
        account_(account),
        may_register_(kind == BounceRegistration::kRegistered ||
                      (kind == BounceRegistration::kIfUnlimited && uring::is_memlock_unlimited())) {
  }

  /// Registers the slab of `buffer`, unless it is registered or was refused. Requires: a
  /// non-empty buffer.
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
