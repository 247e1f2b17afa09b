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

bool has_lock_capability() noexcept {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> sets{};
  return ::syscall(SYS_capget, &header, sets.data()) == 0 &&
         (sets[0].effective & (1U << CAP_IPC_LOCK)) != 0;
}

/// Capabilities of another namespace lift no limits. The first one maps every user to itself.
bool is_in_first_user_namespace() noexcept {
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
  return has_lock_capability() && is_in_first_user_namespace();
}

RegisteredBuffers::~RegisteredBuffers() {
  GUESTIO_CHECK(areas_.empty(), "no memory to be registered with a ring that ends");
}

Result<> RegisteredBuffers::make_table() {
  if (is_made_) return {};
  if (slots_ == 0) return fail(ErrorKind::kTooLarge, "slots for registered memory", 1, 0);
  const int made = ::io_uring_register_buffers_sparse(ring_.raw(), slots_);
  if (made == -EINVAL) return fail(ErrorKind::kUnsupported, "a sparse table of registered memory");
  if (made < 0) return fail(Error::host(-made, "make a table of registered memory"));
  is_made_ = true;
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
    ++area.uses;
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
  GUESTIO_CHECK(buffer_bytes_ == kMaxBufferBytes, "buffers of the same size to take memory over");
  return add_counted(pinned.memory(), &pinned, guard, owner);
}

Result<RegisteredBuffers::Registration> RegisteredBuffers::add_counted(std::span<std::byte> memory,
                                                                       const PinnedBuffers* pinned,
                                                                       BufferGuard* guard,
                                                                       const void* owner) {
  if (memory.empty()) return fail(ErrorKind::kInvalidArgument, "registering no bytes");
  if (auto shared = share(memory)) return shared;
  auto added = add_new(memory, pinned, guard, owner);
  count_registered();
  if (!added) {
    refusals_.fetch_add(1, std::memory_order_relaxed);
    last_errno_.store(added.error().host_errno, std::memory_order_relaxed);
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
    return fail(ErrorKind::kTooLarge, "slots for registered memory", needed, free_.size());
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
  area.uses = 1;
  return Registration(*this, area);
}

Result<> RegisteredBuffers::add_buffer(std::size_t at, std::span<std::byte> memory,
                                       const PinnedBuffers* pinned, Area& area) {
  const std::uint16_t slot = free_.back();
  // A kernel that cannot take it over can pin it once more.
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
  if (--area.uses != 0) return;
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
  registered_bytes_.store(bytes, std::memory_order_relaxed);
  registered_buffers_.store(buffers_.size(), std::memory_order_relaxed);
}

RegisteredBufferStatistics RegisteredBuffers::statistics() const noexcept {
  return {.registered_bytes = registered_bytes_.load(std::memory_order_relaxed),
          .buffers = registered_buffers_.load(std::memory_order_relaxed),
          .operations = operations_.load(std::memory_order_relaxed),
          .refusals = refusals_.load(std::memory_order_relaxed),
          .last_errno = last_errno_.load(std::memory_order_relaxed)};
}

void RegisteredBuffers::remove_buffers(Area& area) noexcept {
  const iovec nothing{};
  for (const std::uint16_t slot : area.slots) {
    std::erase_if(buffers_, [slot](const Buffer& buffer) { return buffer.slot == slot; });
    // A slot that could not be emptied still holds the memory: it is lost, not used again.
    const int updated =
        ::io_uring_register_buffers_update_tag(ring_.raw(), slot, &nothing, nullptr, 1);
    if (updated == 1) free_.push_back(slot);
  }
  area.slots.clear();
  last_ = 0;
}

/// Of areas that overlap, one that begins earlier may be missed: that costs time only.
bool RegisteredBuffers::find_uncached(std::uintptr_t start, std::size_t size) noexcept {
  const auto behind = std::ranges::upper_bound(buffers_, start, {}, &Buffer::start);
  if (behind == buffers_.begin()) return false;
  const auto found = behind - 1;
  if (!found->contains(start, size)) return false;
  last_ = static_cast<std::size_t>(found - buffers_.begin());
  return true;
}

}  // namespace guestio::uring
