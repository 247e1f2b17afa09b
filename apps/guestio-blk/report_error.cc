// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/report_error.h"

#include <fmt/format.h>
#include <unistd.h>

#include "guestio/base/log.h"
#include "guestio/base/write_with_timeout.h"

namespace guestio::app {

int report_error(int status, const std::string& text) {
  return report_lines(status, fmt::format("guestio-blk: {}\n", text));
}

int report_error(int status, const std::string& subject, const Error& error) {
  return report_error(status, fmt::format("{}: {}", subject, error.to_string()));
}

int report_lines(int status, const std::string& lines) {
  (void)log::flush(log::kExitTimeout);
  (void)write_with_timeout(STDERR_FILENO, lines, log::kExitTimeout);
  return status;
}

}  // namespace guestio::app
