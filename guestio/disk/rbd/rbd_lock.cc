// SPDX-License-Identifier: MIT
#include "guestio/disk/rbd/rbd_lock.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <expected>
#include <optional>
#include <string_view>
#include <vector>

#include "guestio/disk/rbd/rbd_error.h"

namespace guestio::disk {

namespace {

/// Owners change between our calls; a lock that never stands still is another's.
constexpr int kMaxLockRounds = 5;

using Owner = std::optional<std::string>;

LockAttempt failed_attempt(int error, const char* what) {
  if (is_fenced_errno(error)) return {.state = LockState::kFenced};
  return {.state = LockState::kFailed, .error = Error::host(error, what)};
}

/// The error number of a failure is positive.
std::expected<Owner, int> query_owner(const RbdImage& image) {
  std::array<char*, 4> owners{};
  std::size_t count = owners.size();
  rbd_lock_mode_t mode = RBD_LOCK_MODE_EXCLUSIVE;
  const int r = ::rbd_lock_get_owners(image.handle(), &mode, owners.data(), &count);
  if (r == -ENOENT) return Owner();
  if (r < 0) return std::unexpected(-r);
  Owner owner;
  if (count != 0) owner = owners.front();
  ::rbd_lock_get_owners_cleanup(owners.data(), count);
  return owner;
}

std::expected<bool, int> has_watch(const RbdImage& image, const std::string& address) {
  std::vector<rbd_image_watcher_t> watchers(16);
  std::size_t count = watchers.size();
  int r = ::rbd_watchers_list(image.handle(), watchers.data(), &count);
  while (r == -ERANGE) {
    watchers.resize(count);
    r = ::rbd_watchers_list(image.handle(), watchers.data(), &count);
  }
  if (r < 0) return std::unexpected(-r);
  const bool is_found =
      std::any_of(watchers.begin(), watchers.begin() + static_cast<std::ptrdiff_t>(count),
                  [&](const rbd_image_watcher_t& watcher) { return address == watcher.addr; });
  ::rbd_watchers_list_cleanup(watchers.data(), count);
  return is_found;
}

bool is_own_lock(const RbdImage& image) {
  int is_owner = 0;
  return ::rbd_is_exclusive_lock_owner(image.handle(), &is_owner) == 0 && is_owner != 0;
}

}  // namespace

LockAttempt try_lock(const RbdImage& image,
                     const std::function<bool(const std::string&)>& may_break) {
  std::string last_owner = "unknown";
  for (int round = 0; round < kMaxLockRounds; ++round) {
    const auto owner = query_owner(image);
    if (!owner) return failed_attempt(owner.error(), "query the owner of the lock");
    if (*owner) {
      if (is_own_lock(image)) return {.state = LockState::kOwned};
      last_owner = **owner;
      const auto is_alive = has_watch(image, last_owner);
      if (!is_alive) return failed_attempt(is_alive.error(), "query the clients of the image");
      if (*is_alive) {
        if (!may_break(last_owner)) return {.state = LockState::kOther, .owner = last_owner};
        const int r = ::rbd_lock_break(image.handle(), RBD_LOCK_MODE_EXCLUSIVE, last_owner.c_str());
        const bool is_gone = r == -ENOENT || r == -EBUSY || r == -EAGAIN;
        if (r < 0 && !is_gone) return failed_attempt(-r, "break the lock of the image");
      }
    }
    // Breaks the lock of a dead owner, too.
    const int r = ::rbd_lock_acquire(image.handle(), RBD_LOCK_MODE_EXCLUSIVE);
    if (r == 0) return {.state = LockState::kOwned};
    const bool is_other = r == -EROFS || r == -EBUSY || r == -EAGAIN;
    if (!is_other) return failed_attempt(-r, "lock the image");
  }
  return {.state = LockState::kOther, .owner = last_owner};
}

Result<> release_lock(const RbdImage& image) {
  const int r = ::rbd_lock_release(image.handle());
  // EINVAL: not the owner, or no longer a client of the cluster.
  if (r < 0 && r != -EINVAL) return fail(Error::host(-r, "release the lock of the image"));
  return {};
}

}  // namespace guestio::disk
