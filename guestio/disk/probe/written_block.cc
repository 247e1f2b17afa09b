// SPDX-License-Identifier: MIT
#include "guestio/disk/probe/written_block.h"

#include <unistd.h>

#include <cerrno>

namespace guestio::disk {

std::optional<std::uint64_t> find_data_offset(int fd) noexcept {
  const off_t found = ::lseek(fd, 0, SEEK_DATA);
  if (found >= 0) return static_cast<std::uint64_t>(found);
  if (errno == ENXIO) return std::nullopt;
  return 0;
}

}  // namespace guestio::disk
