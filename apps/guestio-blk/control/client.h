// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"

namespace guestio::app {

/// The client of the control socket (guestio-blk --ask PATH COMMAND [DISK] [KEY=VALUE...]): sends
/// one command and prints the reply as JSON. Returns the exit status: 1 if the other process
/// refuses or does not reply, 2 if nobody listens at PATH or a word is malformed.
int run_client(const std::vector<std::string>& arguments);

/// Connects to a control socket, with a limit on each wait. Errors: too large (the path), host.
Result<UniqueFd> connect_to_control(const std::string& path);

}  // namespace guestio::app
