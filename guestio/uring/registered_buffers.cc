// SPDX-License-Identifier: MIT
#include "guestio/uring/registered_buffers.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>

#include "guestio/base/check.h"
#include "guestio/base/unique_fd.h"

namespace guestio::uring {

namespace {

bool has_cap_ipc_lock() noexcept {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> sets{};
  return ::syscall(SYS_capget, &header, sets.data()) == 0 &&
         (sets[0].effective & (1U << CAP_IPC_LOCK)) != 0;
}

/// Capabilities in other user namespaces lift no limits. The initial one maps all ids to
/// themselves.
bool is_in_initial_user_namespace() noexcept {
  const UniqueFd map(::open("/proc/self/uid_map", O_RDONLY | O_CLOEXEC));
  std::array<char, 64> text{};
  if (!map || ::read(map.get(), text.data(), text.size() - 1) <= 0) return false;
  unsigned inside = 1;
  unsigned outside = 1;
  unsigned count = 0;
  return std::sscanf(text.data(), "%u %u %u", &inside, &outside, &count) == 3 && inside == 0 &&
         outside == 0 && count == UINT32_MAX;
}

}  // namespace

bool is_memlock_unlimited() noexcept {
  rlimit limit{};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur == RLIM_INFINITY) return true;
  return has_cap_ipc_lock() && is_in_initial_user_namespace();
}

RegisteredBuffers::~RegisteredBuffers() {
  GUESTIO_CHECK(areas_.empty(), "no buffers registered when their ring is destroyed");
}

Result<> RegisteredBuffers::make_table() {
  if (has_table_) return {};
  if (slots_ == 0) return fail(ErrorKind::kTooLarge, "buffer slots", 1, 0);
  const int made = ::io_uring_register_buffers_sparse(ring_.raw(), slots_);
  if (made == -EINVAL) return fail(ErrorKind::kUnsupported, "sparse buffer table");
  if (made < 0) return fail(Error::host(-made, "register a sparse buffer table"));
  has_table_ = true;
  supports_vectored_fixed_ = ring_.supports(kOpReadvFixed) && ring_.supports(kOpWritevFixed);
  for (unsigned slot = slots_; slot > 0; --slot) {
    free_.push_back(static_cast<std::uint16_t>(slot - 1));
  }
  return {};
}

RegisteredBuffers::Registration RegisteredBuffers::share(
    std::span<const std::byte> memory) noexcept {
  for (Area& area : areas_) {
    if (area.memory.data() != memory.data() || area.memory.size() != memory.size()) continue;
    ++area.registrations;
    return {*this, area};
  }
  return {};
}

std::size_t RegisteredBuffers::slot_quota() const noexcept {
  return std::max<std::size_t>(slots_ / 4 * 3 / std::max(tenants_, 1U), 1);
}

std::size_t RegisteredBuffers::slots_used_by(const void* owner) const noexcept {
  std::size_t slots = 0;
  for (const Area& area : areas_) slots += area.owner == owner ? area.slots.size() : 0;
  return slots;
}

Result<RegisteredBuffers::Registration> RegisteredBuffers::add(std::span<std::byte> memory,
                                                               BufferGuard* guard,
                                                               const void* owner) {
  return add_counted(memory, nullptr, guard, owner);
}

Result<RegisteredBuffers::Registration> RegisteredBuffers::add(const PinnedBuffers& pinned,
                                                               BufferGuard* guard,
                                                               const void* owner) {
  GUESTIO_CHECK(buffer_bytes_ == kMaxBufferBytes, "buffers of kMaxBufferBytes for a clone");
  return add_counted(pinned.memory(), &pinned, guard, owner);
}

Result<RegisteredBuffers::Registration> RegisteredBuffers::add_counted(std::span<std::byte> memory,
                                                                       const PinnedBuffers* pinned,
                                                                       BufferGuard* guard,
                                                                       const void* owner) {
  if (memory.empty()) return fail(ErrorKind::kInvalidArgument, "register an empty range");
  if (auto shared = share(memory)) return shared;
  auto added = add_new(memory, pinned, guard, owner);
  count_registered();
  if (!added) {
    ++refusals_;
    last_errno_.set(static_cast<std::uint64_t>(added.error().host_errno));
  }
  return added;
}

Result<RegisteredBuffers::Registration> RegisteredBuffers::add_new(std::span<std::byte> memory,
                                                                   const PinnedBuffers* pinned,
                                                                   BufferGuard* guard,
                                                                   const void* owner) {
  if (auto made = make_table(); !made) return fail(made.error());
  const std::size_t needed = slots_needed(memory);
  if (needed > free_.size()) {
    return fail(ErrorKind::kTooLarge, "buffer slots", needed, free_.size());
  }
  Area& area = areas_.emplace_back(memory, guard, owner);
  for (std::size_t at = 0; at < memory.size(); at += buffer_bytes_) {
    const auto buffer = memory.subspan(at, std::min(memory.size() - at, buffer_bytes_));
    if (auto added = add_buffer(at, buffer, pinned, area); !added) {
      remove_buffers(area);
      areas_.pop_back();
      return fail(added.error());
    }
  }
  area.registrations = 1;
  return Registration(*this, area);
}

Result<> RegisteredBuffers::add_buffer(std::size_t at, std::span<std::byte> memory,
                                       const PinnedBuffers* pinned, Area& area) {
  const std::uint16_t slot = free_.back();
  // If the clone fails, this ring pins the memory once more.
  if (pinned == nullptr ||
      !pinned->clone_to(ring_, static_cast<unsigned>(at / buffer_bytes_), slot)) {
    if (auto registered = register_buffer(ring_, memory, slot); !registered) {
      return fail(registered.error());
    }
  }
  free_.pop_back();
  area.slots.push_back(slot);
  const Buffer buffer{reinterpret_cast<std::uintptr_t>(memory.data()), memory.size(), slot, &area};
  buffers_.insert(std::ranges::upper_bound(buffers_, buffer.start, {}, &Buffer::start), buffer);
  last_ = 0;
  return {};
}

void RegisteredBuffers::release(Area& area) noexcept {
  if (--area.registrations != 0) return;
  remove_buffers(area);
  areas_.remove_if([&area](const Area& other) { return &other == &area; });
  count_registered();
}

void RegisteredBuffers::unregister(Area& area) noexcept {
  BufferGuard& guard = *area.guard;
  remove_buffers(area);
  count_registered();
  guard.on_unregistered();
}

void RegisteredBuffers::count_registered() noexcept {
  std::uint64_t bytes = 0;
  for (const Buffer& buffer : buffers_) bytes += buffer.size;
  registered_bytes_.set(bytes);
  registered_buffers_.set(buffers_.size());
}

RegisteredBufferStatistics RegisteredBuffers::statistics() const noexcept {
  return {.registered_bytes = registered_bytes_,
          .buffers = registered_buffers_,
          .operations = operations_,
          .refusals = refusals_,
          .last_errno = static_cast<int>(last_errno_.value())};
}

void RegisteredBuffers::remove_buffers(Area& area) noexcept {
  const iovec none{};
  for (const std::uint16_t slot : area.slots) {
    std::erase_if(buffers_, [slot](const Buffer& buffer) { return buffer.slot == slot; });
    const int updated =
        ::io_uring_register_buffers_update_tag(ring_.raw(), slot, &none, nullptr, 1);
    // After a failure the slot still holds the memory and is never reused.
    if (updated == 1) free_.push_back(slot);
  }
  area.slots.clear();
  last_ = 0;
}

/// May miss the earlier of two overlapping areas, which only costs time.
bool RegisteredBuffers::find_uncached(std::uintptr_t start, std::size_t size) noexcept {
  const auto next = std::ranges::upper_bound(buffers_, start, {}, &Buffer::start);
  if (next == buffers_.begin()) return false;
  const auto found = next - 1;
  if (!found->contains(start, size)) return false;
  last_ = static_cast<std::size_t>(found - buffers_.begin());
  return true;
}

}  // namespace guestio::uring
