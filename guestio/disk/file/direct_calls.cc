// SPDX-License-Identifier: MIT
#include "guestio/disk/file/direct_calls.h"

#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "guestio/base/align.h"
#include "guestio/base/mapping.h"
#include "guestio/base/units.h"

namespace guestio::disk {

bool are_direct_calls_faster(int fd, std::uint64_t size, std::uint64_t block) noexcept {
  constexpr std::size_t kBytes = kPageSize;
  constexpr std::size_t kReads = 9;
  if (size < kBytes || block > kBytes) return false;
  auto buffer = Mapping::anonymous(kBytes);
  if (!buffer) return false;
  const iovec to{buffer->data(), kBytes};
  const bool has_nonblocking_reads =
      ::preadv2(fd, &to, 1, 0, RWF_NOWAIT) >= 0 || errno != EOPNOTSUPP;
  if (has_nonblocking_reads) return false;
  // Spread over the file. The median, because a read may be interrupted.
  std::array<DirectCalls::Clock::duration, kReads> times{};
  for (std::size_t i = 0; i < kReads; ++i) {
    const std::uint64_t at = align_down((size - kBytes) / kReads * i, kBytes);
    const auto start = DirectCalls::Clock::now();
    if (::preadv2(fd, &to, 1, static_cast<off_t>(at), 0) < 0) return false;
    times[i] = DirectCalls::Clock::now() - start;
  }
  std::ranges::nth_element(times, times.begin() + kReads / 2);
  return times[kReads / 2] <= DirectCalls::max_duration(kBytes);
}

}  // namespace guestio::disk
