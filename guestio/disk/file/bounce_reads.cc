// SPDX-License-Identifier: MIT
#include "guestio/disk/file/bounce_reads.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <optional>

#include "guestio/base/align.h"
#include "guestio/base/mapping.h"

namespace guestio::disk {

namespace {

using Clock = std::chrono::steady_clock;

std::optional<Clock::duration> time_read(int fd, std::span<std::byte> to) noexcept {
  const auto start = Clock::now();
  if (::pread(fd, to.data(), to.size(), 0) != static_cast<ssize_t>(to.size())) return std::nullopt;
  return Clock::now() - start;
}

}  // namespace

bool are_misaligned_reads_slow(int fd, std::uint64_t size) noexcept {
  constexpr std::size_t kBytes = 4 * kPageSize;
  constexpr int kReads = 9;
  if (size < kBytes) return false;
  auto buffer = Mapping::anonymous(kBytes + kPageSize);
  if (!buffer) return false;
  const std::span<std::byte> memory(buffer->data(), kBytes + 1);
  // The first reads fault in file and memory. The minimum, because interruptions only add time.
  std::array least = {Clock::duration::max(), Clock::duration::max()};
  for (int i = 0; i < kReads; ++i) {
    for (std::size_t misaligned = 0; misaligned < least.size(); ++misaligned) {
      const auto took = time_read(fd, memory.subspan(misaligned, kBytes));
      if (!took) return false;
      least[misaligned] = std::min(least[misaligned], *took);
    }
  }
  // The copy from bounce memory adds about a tenth.
  return 4 * least[1] > 5 * least[0];
}

bool is_misaligned(std::span<const buf::IoBuffer> segments, FileOffset offset) noexcept {
  constexpr std::uint64_t kCopyAlignment = 16;
  // A smaller misaligned part costs less than a copy of the whole read.
  constexpr std::uint64_t kMinShare = 8;
  std::uint64_t position = offset.raw();
  std::uint64_t misaligned = 0;
  for (const buf::IoBuffer& segment : segments) {
    const bool is_copied_fast =
        is_aligned(reinterpret_cast<std::uintptr_t>(segment.data) - position, kCopyAlignment);
    if (!is_copied_fast) misaligned += segment.length;
    position += segment.length;
  }
  return misaligned != 0 && misaligned >= (position - offset.raw()) / kMinShare;
}

}  // namespace guestio::disk
