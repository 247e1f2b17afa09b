// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <vector>

#include "guestio/base/units.h"
#include "guestio/blk/failure_policy.h"
#include "guestio/buf/bounce_buffer_tracker.h"
#include "guestio/vhost/poll_window.h"

namespace guestio::app {

/// What is registered with the kernel's rings.
enum class FixedBuffers : std::uint8_t {
  kAuto,  ///< what cannot lose data: bounce memory, and of guest memory nothing
  kOn,    ///< guest memory too: the operator says that it is never discarded while the guest runs
  kOff,
};

/// What the command line asks for.
struct Options {
  std::string socket_path;       ///< empty when `socket_fd` is given
  std::optional<int> socket_fd;  ///< a socket handed down, listening or connected
  std::string image;
  std::string serial;  ///< empty: derived from the image's path
  std::uint16_t queues = 1;
  std::size_t threads = 0;  ///< 0: one for each queue
  std::vector<int> cpus;    ///< that the threads run on, in turn; empty: anywhere
  vhost::PollPolicy polling;
  blk::OnError on_error = blk::OnError::kReport;
  ByteCount block_size = ByteCount(512);
  ByteCount bounce_limit = buf::BounceBufferTracker::kDefaultLimit;  ///< for each queue
  bool is_read_only = false;
  bool is_buffered = false;
  bool has_packed_ring = true;  ///< is offered
  FixedBuffers fixed_buffers = FixedBuffers::kAuto;
  bool is_verbose = false;
};

/// Why the program ends before it serves: text for standard output or error, and exit status.
struct EarlyExit {
  std::string text;
  int status;
};

inline constexpr int kExitUsage = 2;
inline constexpr std::uint16_t kMostQueues = 64;
inline constexpr std::size_t kMostThreads = 64;
inline constexpr std::uint32_t kMostPollUs = 1'000'000;

/// Reads the command line; --help, --version and --print-capabilities are answered here.
std::expected<Options, EarlyExit> parse_options(int argc, const char* const* argv);

}  // namespace guestio::app
