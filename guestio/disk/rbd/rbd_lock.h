// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <string>

#include "guestio/base/error.h"
#include "guestio/disk/rbd/rbd_image.h"

/// The exclusive lock of an image (its feature exclusive-lock). librbd refuses writes without it.
///
/// The owner is known by the address of its connection. An owner with a watch on the image is taken
/// for alive: the cluster ends the watch of a dead client 30 s after its last word. Breaking a lock
/// puts its owner on the cluster's blocklist first, so none of its writes lands afterwards.
///
/// Threads: helper threads.
namespace guestio::disk {

enum class LockState : std::uint8_t {
  kOwned,
  kOther,   ///< another client owns it
  kFenced,  ///< the cluster refuses our client
  kFailed,
};

struct LockAttempt {
  LockState state = LockState::kFailed;
  std::string owner{};  ///< of kOther: its address
  Error error{};        ///< of kFailed
};

/// Acquires the lock if it is free, if its owner is dead, or if `may_break` allows it for the
/// address of a living owner. Asks no other client for its lock.
[[nodiscard]] LockAttempt try_lock(const RbdImage& image,
                                   const std::function<bool(const std::string&)>& may_break);

/// Errors: host.
[[nodiscard]] Result<> release_lock(const RbdImage& image);

}  // namespace guestio::disk
