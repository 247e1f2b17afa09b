// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <vector>

namespace guestio::app {

/// The text for a refused value of `setting`. `refusal` follows the name of the setting.
inline std::string describe_refusal(std::string_view setting, std::string_view refusal,
                                    std::string_view value) {
  return refusal.starts_with("takes ") ? fmt::format("{} {}, not '{}'", setting, refusal, value)
                                       : fmt::format("{} {}", setting, refusal);
}

/// All faults of the options, so that an operator corrects them at once. A text names the fault and
/// the remedy.
class Diagnostics {
 public:
  /// `where`: an option ("--threads"), or a line of a file ("/etc/guestio.toml:3").
  void add(std::string_view where, std::string_view text) {
    all_.push_back(fmt::format("{}: {}", where, text));
  }
  void add(std::string text) { all_.push_back(std::move(text)); }

  [[nodiscard]] bool empty() const noexcept { return all_.empty(); }
  /// One line per fault.
  [[nodiscard]] std::string to_lines() const {
    std::string lines;
    for (const std::string& one : all_) lines += fmt::format("guestio-blk: {}\n", one);
    return lines;
  }
  /// All faults in one line.
  [[nodiscard]] std::string to_line() const { return fmt::format("{}", fmt::join(all_, "; ")); }

 private:
  std::vector<std::string> all_;
};

}  // namespace guestio::app
