// SPDX-License-Identifier: MIT
#include "guestio/registered/residency.h"

#include <fcntl.h>
#include <sys/stat.h>

namespace guestio::registered {

bool is_memory_file(int fd) noexcept { return ::fcntl(fd, F_GET_SEALS) >= 0; }

std::int64_t file_blocks(int fd) noexcept {
  struct stat status{};
  return fd >= 0 && ::fstat(fd, &status) == 0 ? status.st_blocks : 0;
}

bool is_resident(int fd) noexcept {
  struct stat status{};
  return fd >= 0 && ::fstat(fd, &status) == 0 && status.st_size > 0 &&
         status.st_blocks >= status.st_size / 512;
}

}  // namespace guestio::registered
