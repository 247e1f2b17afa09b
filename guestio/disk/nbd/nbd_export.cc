// SPDX-License-Identifier: MIT
#include "guestio/disk/nbd/nbd_export.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <utility>

#include "guestio/base/align.h"

namespace guestio::disk {

namespace {

constexpr std::uint64_t kMaxMinimum = std::uint64_t{64} << 10;   // of the protocol
constexpr std::uint64_t kMaxTransfer = std::uint64_t{32} << 20;  // without a constraint
constexpr std::uint64_t kMaxPhysicalBlock = std::uint64_t{64} << 10;
constexpr std::uint64_t kUsualBlock = 4096;
// A trim or zero of this length ends within the I/O timeout.
constexpr std::uint64_t kMaxRange = std::uint64_t{128} << 20;
// The largest of qcow2. QEMU's servers corrupt an image when a trim or zero meets a write that
// allocates the same cluster (qemu-devel, 2026-04-21, "block/io: fix reproducible silent data
// corruption in write-vs-discard race"), and no server says what it serves.
constexpr std::uint64_t kLargestCluster = std::uint64_t{2} << 20;
constexpr std::uint64_t kMaxDiscard = std::uint64_t{1} << 30;

std::unexpected<OpenFailure> refuse(ErrorKind kind, const char* what, std::string why = {}) {
  return std::unexpected(OpenFailure{Error::make(kind, what), std::move(why)});
}

/// Of a limit that the server may set to anything.
std::uint64_t max_transfer_of(const NbdExport& facts, std::uint64_t alignment) {
  const std::uint64_t most =
      facts.maximum == 0 ? kMaxTransfer : std::min(facts.maximum, kMaxTransfer);
  return align_down(most, alignment);
}

std::optional<std::string> find_nonsense(const NbdExport& facts) {
  const std::uint64_t minimum = std::max<std::uint64_t>(facts.minimum, 1);
  if (!std::has_single_bit(minimum) || minimum > kMaxMinimum) {
    return fmt::format("minimum block size {}", facts.minimum);
  }
  if (facts.preferred != 0 &&
      (!std::has_single_bit(facts.preferred) || facts.preferred < minimum)) {
    return fmt::format("preferred block size {}", facts.preferred);
  }
  if (facts.maximum != 0 && facts.maximum < std::max(minimum, Sector::kSize)) {
    return fmt::format("maximum block size {}", facts.maximum);
  }
  return std::nullopt;
}

/// The flags of an export, in the order of their text.
constexpr std::array kFlags = {&NbdExport::is_read_only, &NbdExport::can_flush,
                               &NbdExport::can_fua,      &NbdExport::can_trim,
                               &NbdExport::can_zero,     &NbdExport::can_multi_conn};
/// The numbers of an export, in the order of their text, before its flags.
constexpr std::array kNumbers = {&NbdExport::size, &NbdExport::minimum, &NbdExport::preferred,
                                 &NbdExport::maximum};

/// Takes the first word of `text` as a number.
std::optional<std::uint64_t> take_number(std::string_view& text) {
  const std::string_view word = text.substr(0, text.find(' '));
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
  if (error != std::errc() || end != word.data() + word.size()) return std::nullopt;
  text.remove_prefix(std::min(word.size() + 1, text.size()));
  return number;
}

}  // namespace

std::expected<NbdExport, std::string> query_nbd_export(nbd_handle* handle) {
  const std::int64_t size = ::nbd_get_size(handle);
  if (size < 0) {
    return std::unexpected(
        fmt::format("export size {} is out of range", static_cast<std::uint64_t>(size)));
  }
  const auto block_size = [handle](int which) {
    // Negative after an error, or for a value out of range: find_nonsense() refuses it.
    return static_cast<std::uint64_t>(::nbd_get_block_size(handle, which));
  };
  return NbdExport{.size = static_cast<std::uint64_t>(size),
                   .is_read_only = ::nbd_is_read_only(handle) != 0,
                   .can_flush = ::nbd_can_flush(handle) == 1,
                   .can_fua = ::nbd_can_fua(handle) == 1,
                   .can_trim = ::nbd_can_trim(handle) == 1,
                   .can_zero = ::nbd_can_zero(handle) == 1,
                   .can_multi_conn = ::nbd_can_multi_conn(handle) == 1,
                   .minimum = block_size(LIBNBD_SIZE_MINIMUM),
                   .preferred = block_size(LIBNBD_SIZE_PREFERRED),
                   .maximum = block_size(LIBNBD_SIZE_MAXIMUM)};
}

OpenResult<NbdShape> shape_nbd_disk(const NbdExport& facts, const OpenOptions& options) {
  if (auto checked = check_block_size(options.block_size); !checked) {
    return std::unexpected(OpenFailure{checked.error(), {}});
  }
  if (facts.is_read_only && !options.is_read_only) {
    return refuse(ErrorKind::kReadOnly, "NBD export is read-only", "set read-only=on");
  }
  if (auto nonsense = find_nonsense(facts)) {
    return refuse(ErrorKind::kPeerFault, "constraints of the NBD server", std::move(*nonsense));
  }
  NbdShape shape;
  RemoteLimits& limits = shape.limits;
  limits.alignment = std::max(facts.minimum, Sector::kSize);
  limits.max_transfer = max_transfer_of(facts, limits.alignment);
  limits.max_range = kMaxRange;
  if (facts.can_trim || facts.can_zero) limits.range_block = kLargestCluster;
  limits.has_fua = facts.can_fua;
  limits.has_flush = facts.can_flush;
  limits.has_write_zeroes = facts.can_zero;

  DiskInfo& info = shape.info;
  const std::uint64_t unit = std::max(options.block_size.raw(), limits.alignment);
  const std::uint64_t size = align_down(facts.size, unit);
  if (size == 0) {
    return refuse(ErrorKind::kUnsupported, "NBD export without a whole block",
                  fmt::format("{} bytes", facts.size));
  }
  shape.unserved_bytes = facts.size - size;
  info.size = ByteCount(size);
  info.block_size = options.block_size;
  const std::uint64_t preferred = facts.preferred == 0 ? kUsualBlock : facts.preferred;
  info.physical_block_size = ByteCount(std::clamp(preferred, Sector::kSize, kMaxPhysicalBlock));
  info.is_read_only = options.is_read_only;
  if (facts.can_trim) {
    info.discard =
        RangeLimits{ByteCount(kMaxDiscard),
                    ByteCount(std::max(info.physical_block_size.raw(), limits.alignment))};
  }
  return shape;
}

std::optional<std::string> find_nbd_difference(const NbdExport& present, const NbdExport& opened,
                                               const RemoteLimits& limits, std::uint64_t served) {
  if (auto nonsense = find_nonsense(present)) return nonsense;
  if (present.size < served) {
    return fmt::format("the export has {} bytes, fewer than the {} of the disk", present.size,
                       served);
  }
  if (present.is_read_only && !opened.is_read_only) return "the export has become read-only";
  const std::uint64_t minimum = std::max(present.minimum, Sector::kSize);
  if (minimum > limits.alignment) {
    return fmt::format("its minimum block size has grown to {}", present.minimum);
  }
  if (max_transfer_of(present, limits.alignment) < limits.max_transfer) {
    return fmt::format("its maximum block size has shrunk to {}", present.maximum);
  }
  struct Ability {
    const char* name;
    bool NbdExport::* flag;
  };
  for (const Ability& ability :
       {Ability{"flush", &NbdExport::can_flush}, Ability{"FUA", &NbdExport::can_fua},
        Ability{"trim", &NbdExport::can_trim}, Ability{"write-zeroes", &NbdExport::can_zero},
        Ability{"multiple connections", &NbdExport::can_multi_conn}}) {
    if (opened.*ability.flag && !(present.*ability.flag)) {
      return fmt::format("the export has lost {}", ability.name);
    }
  }
  return std::nullopt;
}

std::string to_text(const NbdExport& facts) {
  std::string text;
  for (const auto number : kNumbers) text += fmt::format("{} ", facts.*number);
  for (const auto flag : kFlags) text += fmt::format("{:d} ", facts.*flag);
  text.pop_back();
  return text;
}

std::optional<NbdExport> parse_nbd_export(std::string_view text) {
  NbdExport facts;
  for (const auto member : kNumbers) {
    const auto number = take_number(text);
    if (!number) return std::nullopt;
    facts.*member = *number;
  }
  for (const auto member : kFlags) {
    const auto number = take_number(text);
    if (!number || *number > 1) return std::nullopt;
    facts.*member = *number == 1;
  }
  return text.empty() ? std::optional(facts) : std::nullopt;
}

}  // namespace guestio::disk
