// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>

#include "guestio/base/units.h"
#include "guestio/uring/ring.h"

namespace guestio::disk {

enum class ImageAccess : std::uint8_t { kReadOnly, kReadWrite };

enum class Caching : std::uint8_t {
  kDirect,    ///< O_DIRECT: past the host's page cache
  kBuffered,  ///< through the host's page cache
};

/// When a disk holds the claim to its image, which excludes other processes (image_lock.h).
enum class ClaimMode : std::uint8_t {
  kWhileOpen,   ///< from open to destruction
  kWhileInUse,  ///< from claim() to release(); other processes may use the image otherwise
};

/// Whether an image may carry the signature of another format (image_format.h).
enum class FormatCheck : std::uint8_t {
  kRefuseForeign,  ///< refuse an image with such a signature
  kNone,           ///< the operator knows the image as raw
};

/// Whether bounce memory is registered with the rings. Only this process can release
/// its pages, so this is safe for any guest.
enum class BounceRegistration : std::uint8_t {
  kPlain,
  kIfUnlimited,  ///< if it takes nothing from others (uring::is_memlock_unlimited())
  kRegistered,   ///< as far as the kernel allows
};

/// Whether misaligned reads are bounced (bounce_reads.h).
enum class BounceReads : std::uint8_t {
  kMeasured,  ///< if are_misaligned_reads_slow()
  kNever,
  kAlways,
};

/// How direct I/O completes.
using uring::Completion;

struct FileDiskOptions {
  std::string path;
  std::string name = {};  ///< the subject of log lines, as in "disk root"; empty: the path
  ImageAccess access = ImageAccess::kReadWrite;
  Caching caching = Caching::kDirect;
  /// Block size for the guest; below that of the file, writes are read-modify-write.
  ByteCount block_size = ByteCount(512);
  /// kPolled: if the file's device supports it; otherwise one log line gives the reason.
  Completion completion = Completion::kInterrupt;
  BounceRegistration bounce_registration = BounceRegistration::kIfUnlimited;
  ClaimMode claim_mode = ClaimMode::kWhileOpen;
  BounceReads bounce_reads = BounceReads::kMeasured;
  FormatCheck format_check = FormatCheck::kRefuseForeign;

  [[nodiscard]] std::string subject() const { return name.empty() ? "disk " + path : name; }
};

}  // namespace guestio::disk
