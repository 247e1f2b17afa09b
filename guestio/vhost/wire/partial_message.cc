// SPDX-License-Identifier: MIT
#include "guestio/vhost/wire/partial_message.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace guestio::vhost {

Result<PartialMessage> PartialMessage::copy_of(const Message& message) {
  PartialMessage partial;
  if (message.received == 0) return partial;
  const std::size_t of_header = std::min(message.received, sizeof message.header);
  partial.bytes.resize(message.received);
  std::memcpy(partial.bytes.data(), &message.header, of_header);
  std::memcpy(partial.bytes.data() + of_header, message.bytes.data(), message.received - of_header);
  for (std::size_t i = 0; i < message.descriptors.size(); ++i) {
    auto copy = duplicate_fd(message.descriptors.peek(i));
    if (!copy) return fail(copy.error());
    partial.descriptors.push_back(std::move(*copy));
  }
  return partial;
}

Result<> PartialMessage::move_to(Message& message) && {
  if (bytes.empty() && descriptors.empty()) return {};
  const std::size_t of_header = std::min(bytes.size(), sizeof message.header);
  if (bytes.empty() || bytes.size() >= sizeof message.header + message.bytes.size() ||
      descriptors.size() > kMaxDescriptors) {
    return fail(Error::peer_fault("partial message is not part of one message", bytes.size()));
  }
  message.descriptors.clear();
  std::memcpy(&message.header, bytes.data(), of_header);
  std::memcpy(message.bytes.data(), bytes.data() + of_header, bytes.size() - of_header);
  for (UniqueFd& descriptor : descriptors) message.descriptors.add(std::move(descriptor));
  message.received = bytes.size();
  // Bytes after the end of the message would be lost.
  if (message.received >= sizeof message.header &&
      message.received >= sizeof message.header + message.header.size) {
    return fail(Error::peer_fault("partial message is not part of one message", bytes.size()));
  }
  return {};
}

}  // namespace guestio::vhost
