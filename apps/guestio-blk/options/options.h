// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <string>
#include <vector>

#include "apps/guestio-blk/options/diagnostics.h"
#include "apps/guestio-blk/options/disk_options.h"
#include "apps/guestio-blk/options/process_settings.h"
#include "guestio/vhost/ring/poll_window.h"

namespace guestio::app {

/// The options of command line and configuration file, combined.
struct Options {
  std::vector<DiskOptions> disks;
  std::size_t threads = 0;  ///< queue threads
  std::vector<int> cpus;    ///< of the queue threads, round robin; empty: any
  vhost::PollPolicy polling;
  bool has_submission_threads = false;  ///< --sqpoll
  std::vector<int> submission_cpus;     ///< of the submission threads, round robin; empty: any
  std::string control_path;             ///< of the control socket; empty: none
  std::vector<std::string> ask;         ///< client mode: socket path, command, disk
  std::string takeover;                 ///< control socket of the process to replace; empty: none
  bool is_verbose = false;
  /// Start of the program.
  std::chrono::steady_clock::time_point started_at = std::chrono::steady_clock::now();
  bool is_strict = false;
  std::chrono::seconds shutdown_timeout{10};  ///< of requests in flight
  ProcessOptions as_given;                    ///< the process options before defaults
};

/// The end of the program before it serves: text for standard output or error, and exit status.
struct EarlyExit {
  std::string text;
  int status;
};

inline constexpr int kExitFailure = 1;
inline constexpr int kExitUsage = 2;
inline constexpr std::size_t kMaxDisks = 256;

/// Fills the other members from `options.as_given` and the named disks.
void resolve_options(Options& options, Diagnostics& diagnostics);

/// The diagnostic for two disks on one image, at least one of them writable.
std::string describe_shared_image(const DiskOptions& one, const DiskOptions& other);

/// Parses the command line. --help, --version and --print-capabilities are early exits.
std::expected<Options, EarlyExit> parse_options(int argc, const char* const* argv);

}  // namespace guestio::app
