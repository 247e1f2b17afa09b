// SPDX-License-Identifier: MIT
#include "guestio/vhost/wire/message_name.h"

#include <fmt/format.h>

#include <array>
#include <string_view>
#include <utility>

#include "guestio/vhost/wire/messages.h"

namespace guestio::vhost {

namespace {

// By request, from GET_FEATURES (1) on.
constexpr auto kNames = std::to_array<std::string_view>({
    "GET_FEATURES",
    "SET_FEATURES",
    "SET_OWNER",
    "RESET_OWNER",
    "SET_MEM_TABLE",
    "SET_LOG_BASE",
    "SET_LOG_FD",
    "SET_VRING_NUM",
    "SET_VRING_ADDR",
    "SET_VRING_BASE",
    "GET_VRING_BASE",
    "SET_VRING_KICK",
    "SET_VRING_CALL",
    "SET_VRING_ERR",
    "GET_PROTOCOL_FEATURES",
    "SET_PROTOCOL_FEATURES",
    "GET_QUEUE_NUM",
    "SET_VRING_ENABLE",
    "SEND_RARP",
    "NET_SET_MTU",
    "SET_BACKEND_REQ_FD",
    "IOTLB_MSG",
    "SET_VRING_ENDIAN",
    "GET_CONFIG",
    "SET_CONFIG",
    "CREATE_CRYPTO_SESSION",
    "CLOSE_CRYPTO_SESSION",
    "POSTCOPY_ADVISE",
    "POSTCOPY_LISTEN",
    "POSTCOPY_END",
    "GET_INFLIGHT_FD",
    "SET_INFLIGHT_FD",
    "GPU_SET_SOCKET",
    "RESET_DEVICE",
    "VRING_KICK",
    "GET_MAX_MEM_SLOTS",
    "ADD_MEM_REG",
    "REM_MEM_REG",
    "SET_STATUS",
    "GET_STATUS",
    "GET_SHARED_OBJECT",
    "SET_DEVICE_STATE_FD",
    "CHECK_DEVICE_STATE",
});
constexpr std::uint32_t kFirst = std::to_underlying(FrontendRequest::kGetFeatures);
static_assert(kFirst + kNames.size() == std::to_underlying(FrontendRequest::kCheckDeviceState) + 1);

}  // namespace

std::string message_name(std::uint32_t request) {
  if (request < kFirst || request - kFirst >= kNames.size()) {
    return fmt::format("unknown message {}", request);
  }
  return std::string(kNames[request - kFirst]);
}

}  // namespace guestio::vhost
