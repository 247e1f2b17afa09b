// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"
#include "guestio/task/stop.h"
#include "guestio/task/task.h"
#include "guestio/uring/loop.h"

/// The messages of a takeover between two guestio-blk: a line of JSON with any number of
/// descriptors attached. In the JSON a descriptor is its index among them.
///
///     bytes:        {"descriptors":300, ...                                      }\n
///     descriptors:  ^ 253 descriptors   ^ 47 descriptors
namespace guestio::app {

struct TakeoverMessage {
  nlohmann::json body;  ///< an object
  std::vector<UniqueFd> descriptors;

  /// Adds a descriptor and returns its index; null for none.
  nlohmann::json add(UniqueFd descriptor);
};

inline constexpr std::size_t kMaxMessageBytes = std::size_t{32} << 20;
inline constexpr std::size_t kMaxMessageDescriptors = 65536;

/// Sends one message in parts.
class TakeoverMessageWriter {
 public:
  explicit TakeoverMessageWriter(TakeoverMessage message);
  /// Sends what the socket takes now. Returns true at the end of the message. Errors: closed, host.
  Result<bool> send_some(int socket);

 private:
  Result<ssize_t> send_segment(int socket, std::size_t bytes, std::size_t descriptors);

  std::string line_;
  std::vector<UniqueFd> descriptors_;
  std::size_t sent_ = 0;
  std::size_t sent_descriptors_ = 0;
};

/// Receives messages in parts, one after the other.
class TakeoverMessageReader {
 public:
  /// Receives what is available. Returns the message once it is complete. Errors: closed, peer
  /// fault (malformed), host.
  Result<std::optional<TakeoverMessage>> receive_some(int socket);

 private:
  Result<> collect_descriptors(msghdr& received);
  Result<TakeoverMessage> parse_line();

  std::string line_;
  std::vector<UniqueFd> descriptors_;
};

using MessageDeadline = std::chrono::steady_clock::time_point;

// For threads that may block. Further errors: host with ETIMEDOUT.

Result<> send_message(int socket, TakeoverMessage message, MessageDeadline deadline);
Result<TakeoverMessage> receive_message(int socket, MessageDeadline deadline);

// For tasks of a loop. Further errors: cancelled, when `limit` is stopped.

task::Task<Result<>> send_message(uring::Loop& loop, int socket, TakeoverMessage message,
                                  task::StopToken limit);
task::Task<Result<TakeoverMessage>> receive_message(uring::Loop& loop, int socket,
                                                    task::StopToken limit);

}  // namespace guestio::app
