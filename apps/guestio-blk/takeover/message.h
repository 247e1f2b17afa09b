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

/// What two guestio-blk tell each other when one takes the other's place: a line of JSON, and
/// descriptors beside it, any number of them. In the JSON a descriptor is its place among them.
///
///     bytes:        {"descriptors":300, ...                                      }\n
///     beside them:  ^ 253 descriptors   ^ 47 descriptors
namespace guestio::app {

struct TakeoverMessage {
  nlohmann::json body;  ///< an object
  std::vector<UniqueFd> descriptors;

  /// Adds a descriptor; null for none.
  nlohmann::json add(UniqueFd descriptor);
};

inline constexpr std::size_t kMaxMessageBytes = std::size_t{32} << 20;
inline constexpr std::size_t kMaxMessageDescriptors = 65536;

/// A parcel on its way out.
class TakeoverMessageWriter {
 public:
  explicit TakeoverMessageWriter(TakeoverMessage message);
  /// Sends what the socket takes now. Returns whether all is out. Errors: closed, host.
  Result<bool> send_some(int socket);

 private:
  Result<ssize_t> send_segment(int socket, std::size_t bytes, std::size_t descriptors);

  std::string line_;
  std::vector<UniqueFd> descriptors_;
  std::size_t sent_ = 0;
  std::size_t sent_descriptors_ = 0;  // descriptors
};

/// A parcel on its way in. After a whole one it is ready for the next.
class TakeoverMessageReader {
 public:
  /// Takes what is there. Returns the parcel once it is whole. Errors: closed, peer fault (what is
  /// no parcel), host.
  Result<std::optional<TakeoverMessage>> receive_some(int socket);

 private:
  Result<> collect_descriptors(msghdr& received);
  Result<TakeoverMessage> parse_line();

  std::string line_;
  std::vector<UniqueFd> descriptors_;
};

using MessageDeadline = std::chrono::steady_clock::time_point;

// For a thread that may wait. Errors also: host with ETIMEDOUT.

Result<> send_message(int socket, TakeoverMessage message, MessageDeadline deadline);
Result<TakeoverMessage> receive_message(int socket, MessageDeadline deadline);

// For a loop that others share. Errors also: cancelled, when `limit` is stopped.

task::Task<Result<>> send_message(uring::Loop& loop, int socket, TakeoverMessage message,
                                  task::StopToken limit);
task::Task<Result<TakeoverMessage>> receive_message(uring::Loop& loop, int socket,
                                                    task::StopToken limit);

}  // namespace guestio::app
