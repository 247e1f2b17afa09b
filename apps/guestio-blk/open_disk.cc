// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/open_disk.h"

#include <string_view>
#include <utility>

#include "guestio/disk/file/file_disk.h"
#include "guestio/disk/null_disk.h"

namespace guestio::app {

namespace {

using SharedDisk = std::shared_ptr<disk::Disk>;

// "./null:1G" names a file of that name.
constexpr std::string_view kNullPrefix = "null:";

disk::BounceRegistration to_bounce_registration(FixedBuffers wanted) noexcept {
  switch (wanted) {
    case FixedBuffers::kAuto: return disk::BounceRegistration::kIfUnlimited;
    case FixedBuffers::kOn: return disk::BounceRegistration::kRegistered;
    case FixedBuffers::kOff: break;
  }
  return disk::BounceRegistration::kPlain;
}

disk::FileDiskOptions to_file_options(const DiskOptions& options) {
  return {
      .path = options.image,
      .name = options.label(),
      .access = options.is_read_only ? disk::ImageAccess::kReadOnly : disk::ImageAccess::kReadWrite,
      .caching = options.is_buffered ? disk::Caching::kBuffered : disk::Caching::kDirect,
      .block_size = options.block_size,
      .completion = options.polls_device ? disk::Completion::kPolled : disk::Completion::kInterrupt,
      .bounce_registration = to_bounce_registration(options.fixed_buffers),
      .claim_mode = options.claim_mode,
      .format_check =
          options.is_known_raw ? disk::FormatCheck::kNone : disk::FormatCheck::kRefuseForeign};
}

Result<SharedDisk> open_null_disk(std::string_view size, const DiskOptions& options) {
  const auto bytes = parse_byte_count(size);
  if (!bytes) return fail(ErrorKind::kInvalidArgument, "size of a null disk (as in null:1G)");
  return disk::NullDisk::create(
      {.size = *bytes, .block_size = options.block_size, .is_read_only = options.is_read_only});
}

}  // namespace

Result<SharedDisk> open_disk(const DiskOptions& options) {
  const std::string_view name = options.image;
  if (name.starts_with(kNullPrefix)) {
    return open_null_disk(name.substr(kNullPrefix.size()), options);
  }
  return disk::FileDisk::open(to_file_options(options));
}

Result<SharedDisk> take_over_disk(const DiskOptions& options, disk::DiskSnapshot snapshot) {
  if (options.image.starts_with(kNullPrefix)) return open_disk(options);
  return disk::FileDisk::take_over(to_file_options(options), std::move(snapshot));
}

}  // namespace guestio::app
