// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/open_disk.h"

#include <fmt/format.h>

#include <filesystem>
#include <string_view>
#include <utility>

#include "apps/guestio-blk/create_image.h"
#include "apps/guestio-blk/format/format_disk.h"
#include "apps/guestio-blk/options/image_name.h"
#include "guestio/disk/file/file_disk.h"
#include "guestio/disk/null_disk.h"
#include "guestio/disk/ram_disk.h"

namespace guestio::app {

namespace {

using SharedDisk = std::shared_ptr<disk::Disk>;
using disk::OpenFailure;
using disk::OpenResult;

/// The same with the type of error of all backends.
template <typename Opened>
OpenResult<SharedDisk> to_open_result(Result<Opened> opened) {
  if (!opened) return std::unexpected(OpenFailure{opened.error(), {}});
  return SharedDisk(std::move(*opened));
}

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
      .path = path_of_image(options.image),
      .name = options.label(),
      .access = options.is_read_only ? disk::ImageAccess::kReadOnly : disk::ImageAccess::kReadWrite,
      .caching = options.is_buffered ? disk::Caching::kBuffered : disk::Caching::kDirect,
      .block_size = options.block_size,
      .completion = options.polls_device ? disk::Completion::kPolled : disk::Completion::kInterrupt,
      .bounce_registration = to_bounce_registration(options.fixed_buffers),
      .claim_mode = options.claim_mode,
      .format_check =
          options.format == "raw" ? disk::FormatCheck::kNone : disk::FormatCheck::kRefuseForeign};
}

/// Disks in memory of this process.
class MemoryFactory final : public disk::DiskFactory {
 public:
  explicit MemoryFactory(bool has_content) noexcept : has_content_(has_content) {}
  OpenResult<SharedDisk> open(const disk::OpenOptions& options) override {
    const auto size = parse_byte_count(disk::after_scheme(options.uri));
    if (!size) {
      const Error error = Error::make(ErrorKind::kInvalidArgument, "size of a disk in memory");
      const auto scheme = *disk::scheme_of(options.uri);
      return std::unexpected(
          OpenFailure{error, fmt::format("a {0} disk needs a size, as in {0}:1G", scheme)});
    }
    if (has_content_) return to_open_result(disk::RamDisk::create(to_ram_options(options, *size)));
    return to_open_result(disk::NullDisk::create(
        {.size = *size, .block_size = options.block_size, .is_read_only = options.is_read_only}));
  }
  OpenResult<SharedDisk> take_over(const disk::OpenOptions& options,
                                   disk::DiskSnapshot snapshot) override {
    if (!has_content_) return open(options);
    const disk::RamDiskOptions ram = to_ram_options(options, snapshot.size);
    return to_open_result(disk::RamDisk::take_over(ram, std::move(snapshot)));
  }

 private:
  static disk::RamDiskOptions to_ram_options(const disk::OpenOptions& options, ByteCount size) {
    return {.size = size, .block_size = options.block_size, .is_read_only = options.is_read_only};
  }

  const bool has_content_;
};

std::map<std::string, std::string, std::less<>>& backend_defaults() {
  static std::map<std::string, std::string, std::less<>> defaults;
  return defaults;
}

disk::OpenOptions to_open_options(const DiskOptions& options) {
  disk::OpenOptions to{.uri = options.image,
                       .name = options.label(),
                       .is_read_only = options.is_read_only,
                       .block_size = options.block_size,
                       .is_claimed_in_use = options.claim_mode == disk::ClaimMode::kWhileInUse,
                       .settings = options.backend_settings,
                       .state_path = {}};
  if (!options.socket_path.empty()) to.state_path = options.socket_path + ".state";
  if (disk::scheme_of(options.image) == "rbd") {
    to.settings.insert(backend_defaults().begin(), backend_defaults().end());
  }
  return to;
}

FormatImage to_format_image(const DiskOptions& options) {
  const auto key_file = options.backend_settings.find("key-file");
  return {.path = std::filesystem::absolute(path_of_image(options.image)).string(),
          .format = options.format,
          .is_read_only = options.is_read_only,
          .is_buffered = options.is_buffered,
          .key_file = key_file != options.backend_settings.end() ? key_file->second : ""};
}

/// For the NBD disk of an image's daemon.
disk::OpenOptions to_daemon_options(const DiskOptions& options) {
  disk::OpenOptions to = to_open_options(options);
  to.settings.erase("key-file");
  to.state_path.clear();
  return to;
}

OpenResult<disk::DiskFactory*> find_module(std::string_view scheme) {
  auto found = backends().find(scheme);
  if (found) return *found;
  const Error error = Error::make(ErrorKind::kUnsupported, "the backend of an image");
  return std::unexpected(OpenFailure{error, std::move(found.error())});
}

/// The backend of a URI.
OpenResult<disk::DiskFactory*> find_backend(const DiskOptions& options) {
  static MemoryFactory null_disks(false);
  static MemoryFactory ram_disks(true);
  const std::string_view scheme = *disk::scheme_of(options.image);
  if (scheme == "null") return &null_disks;
  if (scheme == "ram") return &ram_disks;
  auto found = find_module(scheme);
  const bool may_be_file = !disk::after_scheme(options.image).starts_with("//");
  if (!found && may_be_file) {
    found.error().detail += fmt::format("; a file of that name is reached as ./{}", options.image);
  }
  return found;
}

}  // namespace

OpenResult<SharedDisk> open_disk(const DiskOptions& options) {
  if (!is_file_image(options.image)) {
    const auto backend = find_backend(options);
    if (!backend) return std::unexpected(backend.error());
    return (*backend)->open(to_open_options(options));
  }
  if (has_foreign_format(options)) {
    const auto nbd = find_module("nbd");
    if (!nbd) return std::unexpected(nbd.error());
    return FormatDisk::open(**nbd, to_daemon_options(options), to_format_image(options));
  }
  if (options.create_size) {
    if (auto created = create_image(path_of_image(options.image), *options.create_size); !created) {
      return std::unexpected(OpenFailure{created.error(), {}});
    }
  }
  return to_open_result(disk::FileDisk::open(to_file_options(options)));
}

OpenResult<SharedDisk> take_over_disk(const DiskOptions& options, disk::DiskSnapshot snapshot) {
  if (!is_file_image(options.image)) {
    const auto backend = find_backend(options);
    if (!backend) return std::unexpected(backend.error());
    return (*backend)->take_over(to_open_options(options), std::move(snapshot));
  }
  if (has_foreign_format(options)) {
    const auto nbd = find_module("nbd");
    if (!nbd) return std::unexpected(nbd.error());
    return FormatDisk::take_over(**nbd, to_daemon_options(options), to_format_image(options),
                                 std::move(snapshot));
  }
  return to_open_result(disk::FileDisk::take_over(to_file_options(options), std::move(snapshot)));
}

void set_backend_defaults(std::map<std::string, std::string, std::less<>> defaults) {
  backend_defaults() = std::move(defaults);
}

}  // namespace guestio::app
