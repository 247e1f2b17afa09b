// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>

namespace guestio::vhost {

/// The name of a front-end's message in vhost-user.rst ("SET_VRING_KICK"), or "unknown message 57".
[[nodiscard]] std::string message_name(std::uint32_t request);

}  // namespace guestio::vhost
