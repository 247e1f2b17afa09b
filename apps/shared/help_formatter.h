// SPDX-License-Identifier: MIT
#pragma once

#include <CLI/CLI.hpp>

#include <memory>
#include <string>

namespace guestio::app {

/// The form of --help in all programs: options in named groups, one line each of at most 100
/// columns, a blank line between groups. tools/check_options.py reads this form.
class HelpFormatter : public CLI::Formatter {
 public:
  static constexpr std::size_t kNameColumns = 40;

  HelpFormatter() { column_width(kNameColumns); }

  std::string make_help(const CLI::App* app, std::string name,
                        CLI::AppFormatMode mode) const override {
    std::string text = CLI::Formatter::make_help(app, std::move(name), mode);
    for (auto at = text.find("\n\n\n"); at != std::string::npos; at = text.find("\n\n\n")) {
      text.erase(at, 1);
    }
    while (text.ends_with("\n\n")) text.pop_back();
    return text;
  }
};

/// Adds --help as the last option of `app`, in `group`.
inline void add_help_option(CLI::App& app, const std::string& group) {
  app.set_help_flag("-h,--help", "print this text and exit")->group(group);
}

}  // namespace guestio::app
