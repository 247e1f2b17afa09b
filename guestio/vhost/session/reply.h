// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "guestio/vhost/wire/messages.h"

namespace guestio::vhost {

/// The result of a handled message, as the front-end gets it.
struct Reply {
  enum class Kind : std::uint8_t {
    kByRequest,  ///< a reply or an acknowledgement, whichever the request has
    kAlways,     ///< a reply, also to a request that has none
    kNever       ///< nothing, also where an acknowledgement is wanted
  };

  std::array<std::byte, sizeof(ConfigHeader) + kMaxConfig> payload;
  std::size_t size = 0;  ///< of the payload
  int descriptor = -1;   ///< sent along; -1: none
  Kind kind = Kind::kByRequest;

  static Reply empty() noexcept { return {}; }
  static Reply never() noexcept {
    Reply reply;
    reply.kind = Kind::kNever;
    return reply;
  }
  template <typename T>
  static Reply of(const T& value) noexcept {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof payload);
    Reply reply;
    std::memcpy(reply.payload.data(), &value, sizeof value);
    reply.size = sizeof value;
    return reply;
  }
};

}  // namespace guestio::vhost
