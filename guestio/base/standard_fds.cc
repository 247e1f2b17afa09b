// SPDX-License-Identifier: MIT
#include "guestio/base/standard_fds.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string_view>

#include "guestio/base/write_with_timeout.h"

namespace guestio {

void open_standard_fds() noexcept {
  for (const int fd : std::array{STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(fd, F_GETFD) != -1 || errno != EBADF) continue;
    // open() returns the lowest free number: `fd`, since the lower ones are open by now.
    if (::open("/dev/null", O_RDWR) == fd) continue;
    // Standard error may still be open.
    constexpr std::string_view kText = "guestio: descriptors 0, 1 and 2: cannot open /dev/null\n";
    if (fd != STDERR_FILENO) (void)write_with_timeout(STDERR_FILENO, kText);
    ::_exit(2);
  }
}

}  // namespace guestio
