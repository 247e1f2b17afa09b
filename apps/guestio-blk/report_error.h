// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "guestio/base/error.h"

namespace guestio::app {

/// Why the program ends, for whoever started it: one line on standard error, after those of the
/// log. Waits for a reader a second at most. Returns `status`.
int report_error(int status, const std::string& text);
int report_error(int status, const std::string& subject, const Error& error);
/// Several such lines, which are whole.
int report_lines(int status, const std::string& lines);

}  // namespace guestio::app
