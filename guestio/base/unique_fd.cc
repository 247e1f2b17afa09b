// SPDX-License-Identifier: MIT
#include "guestio/base/unique_fd.h"

#include <fcntl.h>

namespace guestio {

Result<UniqueFd> duplicate_fd(int fd) noexcept {
  if (fd < 0) return UniqueFd();
  UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!copy) return fail_host("duplicate a descriptor");
  return copy;
}

}  // namespace guestio
