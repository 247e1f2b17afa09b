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
constexpr std::uint32_t kRegisterDstReplace = 1U << 1U;
struct CloneBuffers {
  std::uint32_t source_fd;
  std::uint32_t flags;
  std::uint32_t source_offset;
  std::uint32_t destination_offset;
  std::uint32_t count;
  std::array<std::uint32_t, 3> reserved;
};

Result<> clone(int source, unsigned index, Ring& ring, unsigned slot) noexcept {
  CloneBuffers request{.source_fd = static_cast<std::uint32_t>(source),
                       .flags = kRegisterDstReplace,
                       .source_offset = index,
                       .destination_offset = slot,
                       .count = 1,
                       .reserved = {}};
  const long result =
      ::syscall(SYS_io_uring_register, ring.raw()->ring_fd, kRegisterCloneBuffers, &request, 1);
  if (result < 0) return fail_host("IORING_REGISTER_CLONE_BUFFERS");
  return {};
}

/// Whether an operation on the slot finds the memory.
bool is_registered(Ring& ring, std::span<std::byte> memory, unsigned slot) noexcept {
  // A pipe: for a file the kernel would start an io-wq worker, which stays and wakes periodically.
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

/// Clones a buffer into the first of two slots and checks both.
bool probe_clone() noexcept {
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
         clone(source->raw()->ring_fd, 0, *ring, 0) && is_registered(*ring, first, 0) &&
         is_registered(*ring, second, 1);
}

std::unexpected<Error> fail_to_register(int error) noexcept {
  switch (error) {
    case ENOMEM: return fail(Error::host(error, "register buffers (memory-lock limit)"));
    case EFAULT:
    case EOPNOTSUPP: return fail(ErrorKind::kUnsupported, "memory cannot be pinned for writing");
    default: return fail(Error::host(error, "register buffers"));
  }
}

/// Registration faults pages in as well, but cannot be stopped within a buffer, which may take
/// seconds. Errors are left to the registration, which reports them.
Result<> prefault(std::span<std::byte> memory, const std::stop_token& stop) noexcept {
  constexpr std::size_t kStep = std::size_t{16} << 20;
  for (std::size_t at = 0; at < memory.size(); at += kStep) {
    if (stop.stop_requested()) return fail(ErrorKind::kCancelled, "prefault memory");
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
  static const bool can = probe_clone();
  return can;
}

Result<PinnedBuffers> PinnedBuffers::pin(std::span<std::byte> memory, const std::stop_token& stop) {
  if (memory.empty()) return fail(ErrorKind::kInvalidArgument, "register an empty range");
  // Only its buffer table is used, by any thread.
  auto ring = Ring::create({.sq_entries = 1, .cq_entries = 2, .mode = RingMode::kPlain});
  if (!ring) return fail(ring.error());
  const auto count = static_cast<unsigned>((memory.size() - 1) / kMaxBufferBytes + 1);
  const int made = ::io_uring_register_buffers_sparse(ring->raw(), count);
  if (made < 0) return fail(Error::host(-made, "register a sparse buffer table"));
  for (unsigned index = 0; index < count; ++index) {
    const std::size_t at = index * kMaxBufferBytes;
    const auto bytes = memory.subspan(at, std::min(memory.size() - at, kMaxBufferBytes));
    if (auto resident = prefault(bytes, stop); !resident) return fail(resident.error());
    if (auto registered = register_buffer(*ring, bytes, index); !registered) {
      return fail(registered.error());
    }
  }
  return PinnedBuffers(memory, std::move(*ring));
}

Result<> PinnedBuffers::clone_to(Ring& ring, unsigned index, unsigned slot) const noexcept {
  return clone(fd_, index, ring, slot);
}

}  // namespace guestio::uring
