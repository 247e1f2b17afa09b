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

inline constexpr int kExitFailed = 1;  ///< a request or a comparison failed, the backend left
inline constexpr int kExitUsage = 2;   ///< what was asked for makes no sense, or not on this device

enum class OutputFormat { kNormal, kJson };

/// Which backend, and how to talk to it.
struct Target {
  std::string socket_path;
  std::chrono::milliseconds deadline = std::chrono::seconds(60);  ///< for any one answer
  bool event_idx = true;
  bool indirect = true;
  bool packed = false;  ///< take packed rings
};

struct InfoArguments {
  Target target;
  OutputFormat format = OutputFormat::kNormal;
};

/// fio's names for what is done in which order.
enum class ReadWrite { kRead, kWrite, kRandRead, kRandWrite, kRandRw };
[[nodiscard]] std::string_view to_text(ReadWrite rw) noexcept;

struct RunArguments {
  Target target;
  OutputFormat format = OutputFormat::kNormal;
  ReadWrite rw = ReadWrite::kRandRead;
  unsigned read_percent = 50;  ///< of a mix
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

/// How requests are cut into descriptors.
enum class Layout {
  kSimple,  ///< header and status alone, data in whole and aligned sectors
  kAny      ///< cut and joined anywhere, at any address
};

struct VerifyArguments {
  Target target;
  std::uint64_t operations = 10000;
  std::uint64_t seed = 1;
  std::uint32_t depth = 16;
  std::uint32_t jobs = 1;
  std::optional<ByteCount> size;
  ByteCount offset;
  ByteCount largest{std::uint64_t{256} << 10};  ///< request
  Layout layout = Layout::kAny;
  bool reconnect = false;  ///< go on with another backend when the present one is gone
  bool strict = false;     ///< also fail for what drivers get along with
};

using Arguments = std::variant<InfoArguments, RunArguments, VerifyArguments>;

/// Why the program ends before it has begun: text for standard output when `status` is 0, else for
/// standard error.
struct EarlyExit {
  std::string text;
  int status;
};

std::expected<Arguments, EarlyExit> parse_arguments(int count, const char* const* values);

}  // namespace guestio::load
