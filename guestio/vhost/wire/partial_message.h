// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"
#include "guestio/vhost/wire/received_message.h"

namespace guestio::vhost {

/// The received part of an incomplete message, as a value for another process.
struct PartialMessage {
  std::vector<std::byte> bytes;  ///< of header and payload
  std::vector<UniqueFd> descriptors;

  /// Empty when `message` is whole. Errors: host.
  static Result<PartialMessage> copy_of(const Message& message);
  /// Restores `message`, whose reception then continues. Requires: `message` holds no bytes.
  /// Errors: peer fault (a whole message, or more than one).
  Result<> move_to(Message& message) &&;
};

}  // namespace guestio::vhost
