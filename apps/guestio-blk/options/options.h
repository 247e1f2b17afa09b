// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <string>
#include <vector>

#include "guestio/vhost/ring/poll_window.h"
#include "options/diagnostics.h"
#include "options/disk_options.h"
#include "options/process_settings.h"

namespace guestio::app {

/// What the command line and the configuration file ask for.
struct Options {
  std::vector<DiskOptions> disks;
  std::size_t threads = 0;  ///< that the queues of all disks share
  std::vector<int> cpus;    ///< that the threads run on, in turn; empty: anywhere
  vhost::PollPolicy polling;
  bool has_submission_threads = false;  ///< --sqpoll
  std::vector<int> submission_cpus;     ///< that those run on, in turn; empty: anywhere
  std::string control_path;             ///< of the control socket; empty: there is none
  std::vector<std::string> ask;  ///< not to serve but to ask another: its path, a command, a disk
  std::string takeover;          ///< control socket of the process whose place to take, or empty
  bool is_verbose = false;
  /// When the program began.
  std::chrono::steady_clock::time_point started_at = std::chrono::steady_clock::now();
  bool is_strict = false;
  ProcessOptions as_given;  ///< all of that but the disks, in words
};

/// Why the program ends before it serves: text for standard output or error, and exit status.
struct EarlyExit {
  std::string text;
  int status;
};

inline constexpr int kExitFailure = 1;
inline constexpr int kExitUsage = 2;
inline constexpr std::size_t kMaxDisks = 256;

/// Puts together what `options.said` says and the disks, which are named.
void resolve_options(Options& options, Diagnostics& diagnostics);

/// How two disks share an image that one of them writes to.
std::string describe_shared_image(const DiskOptions& one, const DiskOptions& other);

/// Reads the command line; --help, --version and --print-capabilities are answered here.
std::expected<Options, EarlyExit> parse_options(int argc, const char* const* argv);

}  // namespace guestio::app
