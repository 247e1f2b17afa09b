// SPDX-License-Identifier: MIT
#include "guestio/disk/nbd/nbd_factory.h"

#include <fmt/format.h>

#include <chrono>
#include <utility>

#include "guestio/disk/nbd/nbd_disk.h"

namespace guestio::disk {

namespace {

using std::chrono::milliseconds;

// The other process waits for this one, and other disks with it.
constexpr milliseconds kTakeoverLimit{5000};

OpenResult<std::unique_ptr<NbdDisk>> name_target(const NbdTarget& target,
                                                 OpenResult<std::unique_ptr<NbdDisk>> disk) {
  if (disk) return disk;
  OpenFailure failure = std::move(disk.error());
  failure.detail =
      fmt::format("{}{}{}", target.to_string(), failure.detail.empty() ? "" : ": ", failure.detail);
  return std::unexpected(std::move(failure));
}

OpenResult<std::unique_ptr<NbdDisk>> take_over_nbd(const NbdTarget& target,
                                                   const OpenOptions& options,
                                                   const DiskSnapshot& snapshot) {
  if (snapshot.backend_state.empty()) return NbdDisk::open(target, options, kTakeoverLimit);
  auto facts = parse_nbd_export(snapshot.backend_state);
  if (!facts) {
    const Error error = Error::make(ErrorKind::kInvalidArgument, "NBD export of the other process");
    return std::unexpected(OpenFailure{error, {}});
  }
  // It may have grown since it was opened.
  facts->size = snapshot.size.raw();
  return NbdDisk::resume(target, options, *facts);
}

}  // namespace

OpenResult<std::shared_ptr<Disk>> NbdFactory::open(const OpenOptions& options) {
  const auto target = parse_nbd_target(options);
  if (!target) return std::unexpected(target.error());
  return name_target(*target, NbdDisk::open(*target, options, target->io_timeout));
}

OpenResult<std::shared_ptr<Disk>> NbdFactory::take_over(const OpenOptions& options,
                                                        DiskSnapshot snapshot) {
  const auto target = parse_nbd_target(options);
  if (!target) return std::unexpected(target.error());
  auto disk = name_target(*target, take_over_nbd(*target, options, snapshot));
  if (!disk) return std::unexpected(std::move(disk.error()));
  const ByteCount present((*disk)->info().size);
  if (present < snapshot.size) {
    return std::unexpected(
        OpenFailure{Error::make(ErrorKind::kUnsupported, "NBD export that shrank", present.raw(),
                                snapshot.size.raw()),
                    {}});
  }
  return std::shared_ptr<Disk>(std::move(*disk));
}

}  // namespace guestio::disk
