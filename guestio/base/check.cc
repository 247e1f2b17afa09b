// SPDX-License-Identifier: MIT
#include "guestio/base/check.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <string_view>

#include "guestio/base/log.h"
#include "guestio/base/write_with_timeout.h"

namespace guestio {

void check_failed(std::string_view condition, std::string_view expected, std::string_view file,
                  int line) noexcept {
  std::array<char, 512> text{};
  const auto end =
      fmt::format_to_n(text.data(), text.size(), "guestio: bug at {}:{}: expected {} ({})\n", file,
                       line, expected, condition);
  const std::size_t length = end.size < text.size() ? end.size : text.size();
  // The queue may hold the lines that explain the failure. Neither call waits for a blocked reader.
  log::flush_before_abort();
  (void)write_with_timeout(STDERR_FILENO, std::string_view(text.data(), length));
  std::abort();
}

}  // namespace guestio
