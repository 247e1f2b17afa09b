// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "guestio/base/units.h"

/// The command line of guestio-load.
namespace guestio::load {

inline constexpr int kExitFailed = 1;  ///< failed request or comparison, or disconnect
inline constexpr int kExitUsage = 2;   ///< invalid arguments, also for this device

enum class OutputFormat { kNormal, kJson };

/// The backend and the features to negotiate.
struct Target {
  std::string socket_path;
  std::chrono::milliseconds deadline = std::chrono::seconds(60);  ///< of each reply and completion
  bool event_idx = true;
  bool indirect = true;
  bool packed = false;  ///< require packed rings
};

struct InfoArguments {
  Target target;
  OutputFormat format = OutputFormat::kNormal;
};

/// fio's --rw.
enum class ReadWrite { kRead, kWrite, kRandRead, kRandWrite, kRandRw };
[[nodiscard]] std::string_view to_text(ReadWrite rw) noexcept;

struct RunArguments {
  Target target;
  OutputFormat format = OutputFormat::kNormal;
  ReadWrite rw = ReadWrite::kRandRead;
  unsigned read_percent = 50;  ///< fio's --rwmixread
  ByteCount block_size{4096};
  std::uint32_t depth = 1;
  std::uint32_t jobs = 1;
  std::optional<std::uint16_t> queue_size;
  std::chrono::milliseconds runtime = std::chrono::seconds(10);
  std::chrono::milliseconds ramp{0};
  std::optional<ByteCount> size;
  ByteCount offset;
  std::uint64_t seed = 1;
  ByteCount buffer_offset;
  std::uint32_t segments = 1;
  bool poll = false;
};

/// The layout of requests in descriptors.
enum class Layout {
  kSimple,  ///< separate header and status, data in whole, aligned sectors
  kAny      ///< arbitrary descriptor boundaries and addresses
};

struct VerifyArguments {
  Target target;
  std::uint64_t operations = 10000;
  std::uint64_t seed = 1;
  std::uint32_t depth = 16;
  std::uint32_t jobs = 1;
  std::optional<ByteCount> size;
  ByteCount offset;
  ByteCount max_request{std::uint64_t{256} << 10};
  Layout layout = Layout::kAny;
  bool reconnect = false;  ///< reconnect after a disconnect
  bool strict = false;     ///< also fail for violations that drivers tolerate
};

using Arguments = std::variant<InfoArguments, RunArguments, VerifyArguments>;

/// An exit before the command: --help and --version (text for standard output, status 0) or a usage
/// error (text for standard error).
struct EarlyExit {
  std::string text;
  int status;
};

std::expected<Arguments, EarlyExit> parse_arguments(int count, const char* const* values);

}  // namespace guestio::load
