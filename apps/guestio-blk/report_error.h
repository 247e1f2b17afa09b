// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "guestio/base/error.h"

namespace guestio::app {

/// Writes the cause of the program's end to standard error, after the lines of the log. Waits at
/// most 1 s for a reader. Returns `status`.
int report_error(int status, const std::string& text);
int report_error(int status, const std::string& subject, const Error& error);
/// The same for whole lines.
int report_lines(int status, const std::string& lines);

}  // namespace guestio::app
