// SPDX-License-Identifier: MIT
#include "guestio/base/check.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cstdlib>

namespace guestio {

void check_failed(std::string_view condition, std::string_view expected, std::string_view file,
                  int line) noexcept {
  std::array<char, 512> text{};
  const auto end =
      fmt::format_to_n(text.data(), text.size(), "guestio: bug at {}:{}: expected {} ({})\n", file,
                       line, expected, condition);
  const std::size_t length = end.size < text.size() ? end.size : text.size();
  // The process is about to stop: a short write changes nothing.
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, text.data(), length);
  std::abort();
}

}  // namespace guestio
