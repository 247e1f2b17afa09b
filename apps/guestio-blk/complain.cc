// SPDX-License-Identifier: MIT
#include "complain.h"

#include <fmt/format.h>
#include <unistd.h>

#include "guestio/base/log.h"
#include "guestio/base/write_with_timeout.h"

namespace guestio::app {

int complain(int status, const std::string& text) {
  return complain_in_lines(status, fmt::format("guestio-blk: {}\n", text));
}

int complain(int status, const std::string& subject, const Error& error) {
  return complain(status, fmt::format("{}: {}", subject, error.to_string()));
}

int complain_in_lines(int status, const std::string& lines) {
  (void)log::flush(log::kExitTimeout);
  (void)write_with_timeout(STDERR_FILENO, lines, log::kExitTimeout);
  return status;
}

}  // namespace guestio::app
