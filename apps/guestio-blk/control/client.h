// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"

namespace guestio::app {

/// The client of the control socket (guestio-blk --ask PATH COMMAND [DISK]): sends one command and
/// prints what it returns, as JSON for people and programs. Returns the exit status: 1 when the
/// other process refused or did not answer, 2 when there is nobody to connect to.
int run_client(const std::vector<std::string>& arguments);

/// A connection to a control socket, with a limit on each wait. Errors: too large (the path), host.
Result<UniqueFd> connect_to_control(const std::string& path);

}  // namespace guestio::app
