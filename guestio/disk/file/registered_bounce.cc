// SPDX-License-Identifier: MIT
#include "guestio/disk/file/registered_bounce.h"

#include <atomic>

#include "guestio/base/log.h"
#include "guestio/uring/setup_hint.h"

namespace guestio::disk {

namespace {

void warn_once(const std::string& name, const Error& refusal) noexcept {
  static std::atomic<bool> is_logged{false};
  // Relaxed: the flag orders nothing else.
  if (is_logged.exchange(true, std::memory_order_relaxed)) return;
  log::warning(
      "{}: bounce memory stays unregistered, which costs only time: {}; {}, or choose "
      "--fixed-buffers off",
      name, refusal.to_string(), uring::memlock_limit_hint());
}

}  // namespace

void RegisteredBounce::add(const buf::TrackedBounceBuffer& buffer) noexcept {
  auto added = fixed_.add(account_.keep_slab(buffer));
  if (added) return slabs_.push_back(std::move(*added));
  may_register_ = false;
  warn_once(name_, added.error());
}

}  // namespace guestio::disk
