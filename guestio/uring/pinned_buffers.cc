// SPDX-License-Identifier: MIT
#include "guestio/uring/pinned_buffers.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "guestio/base/mapping.h"
#include "guestio/base/unique_fd.h"

namespace guestio::uring {

namespace {

// include/uapi/linux/io_uring.h
constexpr unsigned kRegisterCloneBuffers = 30;
constexpr std::uint32_t kReplaceInDestination = 1U << 1U;
struct CloneBuffers {
  std::uint32_t source_fd;
  std::uint32_t flags;
  std::uint32_t source_offset;
  std::uint32_t destination_offset;
  std::uint32_t count;
  std::array<std::uint32_t, 3> reserved;
};

Result<> clone(int source, unsigned buffer, Ring& ring, unsigned slot) noexcept {
  CloneBuffers request{.source_fd = static_cast<std::uint32_t>(source),
                       .flags = kReplaceInDestination,
                       .source_offset = buffer,
                       .destination_offset = slot,
                       .count = 1,
                       .reserved = {}};
  const long result =
      ::syscall(SYS_io_uring_register, ring.raw()->ring_fd, kRegisterCloneBuffers, &request, 1);
  if (result < 0) return fail_host("take registered memory over");
  return {};
}

/// Whether an operation that names the slot finds the memory there.
bool is_there(Ring& ring, std::span<std::byte> memory, unsigned slot) noexcept {
  // Not a file: the kernel would start a worker thread, which stays and wakes now and then.
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0) return false;
  const UniqueFd output(ends[0]);
  const UniqueFd input(ends[1]);
  io_uring_sqe* const entry = ring.next_sqe();
  if (entry == nullptr) return false;
  ::io_uring_prep_write_fixed(entry, input.get(), memory.data(), 1, ~std::uint64_t{0},
                              static_cast<int>(slot));
  do ring.enter(Ring::Wait::kForOne);
  while (ring.completions_ready() == 0);
  return ring.pop_completion().res == 1;
}

/// Takes a buffer over into the first of two slots, and asks for both.
bool try_to_share() noexcept {
  constexpr RingOptions kSmall = {.sq_entries = 1, .cq_entries = 2, .mode = RingMode::kPlain};
  auto source = Ring::create(kSmall);
  auto ring = Ring::create(kSmall);
  auto memory = Mapping::anonymous(2 * kPageSize);
  if (!source || !ring || !memory) return false;
  const auto first = memory->bytes().first(kPageSize);
  const auto second = memory->bytes().subspan(kPageSize);
  return ::io_uring_register_buffers_sparse(source->raw(), 1) == 0 &&
         ::io_uring_register_buffers_sparse(ring->raw(), 2) == 0 &&
         register_buffer(*source, first, 0) && register_buffer(*ring, second, 1) &&
         clone(source->raw()->ring_fd, 0, *ring, 0) && is_there(*ring, first, 0) &&
         is_there(*ring, second, 1);
}

std::unexpected<Error> fail_to_register(int error) noexcept {
  switch (error) {
    case ENOMEM: return fail(Error::host(error, "register memory (the memory-lock limit)"));
    case EFAULT:
    case EOPNOTSUPP:
      return fail(ErrorKind::kUnsupported, "registering memory that cannot be pinned for writing");
    default: return fail(Error::host(error, "register memory"));
  }
}

/// Registering brings pages in as well, but cannot be stopped in the middle of a buffer, which may
/// take seconds. What goes wrong here goes wrong there, where it is told.
Result<> prefault(std::span<std::byte> memory, const std::stop_token& stop) noexcept {
  constexpr std::size_t kStep = std::size_t{16} << 20;
  for (std::size_t at = 0; at < memory.size(); at += kStep) {
    if (stop.stop_requested()) return fail(ErrorKind::kCancelled, "bring memory in");
    const auto step = memory.subspan(at, std::min(kStep, memory.size() - at));
    (void)::madvise(step.data(), step.size(), MADV_POPULATE_WRITE);
  }
  return {};
}

}  // namespace

Result<> register_buffer(Ring& ring, std::span<std::byte> memory, unsigned slot) noexcept {
  const iovec bytes{memory.data(), memory.size()};
  const int updated = ::io_uring_register_buffers_update_tag(ring.raw(), slot, &bytes, nullptr, 1);
  if (updated != 1) return fail_to_register(-updated);
  return {};
}

bool PinnedBuffers::can_clone() noexcept {
  static const bool can = try_to_share();
  return can;
}

Result<PinnedBuffers> PinnedBuffers::pin(std::span<std::byte> memory, const std::stop_token& stop) {
  if (memory.empty()) return fail(ErrorKind::kInvalidArgument, "registering no bytes");
  // Used for its table only, by whichever thread.
  auto ring = Ring::create({.sq_entries = 1, .cq_entries = 2, .mode = RingMode::kPlain});
  if (!ring) return fail(ring.error());
  const auto buffers = static_cast<unsigned>((memory.size() - 1) / kMaxBufferBytes + 1);
  const int made = ::io_uring_register_buffers_sparse(ring->raw(), buffers);
  if (made < 0) return fail(Error::host(-made, "make a table of registered memory"));
  for (unsigned buffer = 0; buffer < buffers; ++buffer) {
    const std::size_t at = buffer * kMaxBufferBytes;
    const auto bytes = memory.subspan(at, std::min(memory.size() - at, kMaxBufferBytes));
    if (auto there = prefault(bytes, stop); !there) return fail(there.error());
    if (auto registered = register_buffer(*ring, bytes, buffer); !registered) {
      return fail(registered.error());
    }
  }
  return PinnedBuffers(memory, std::move(*ring));
}

Result<> PinnedBuffers::clone_to(Ring& ring, unsigned buffer, unsigned slot) const noexcept {
  return clone(fd_, buffer, ring, slot);
}

}  // namespace guestio::uring
