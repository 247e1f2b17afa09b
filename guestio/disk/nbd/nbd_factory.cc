// SPDX-License-Identifier: MIT
#include "guestio/disk/nbd/nbd_factory.h"

#include <fmt/format.h>

#include <utility>

#include "guestio/disk/nbd/nbd_disk.h"

namespace guestio::disk {

namespace {

OpenResult<std::unique_ptr<NbdDisk>> open_nbd(const OpenOptions& options) {
  const auto target = parse_nbd_target(options);
  if (!target) return std::unexpected(target.error());
  auto disk = NbdDisk::open(*target, options);
  if (disk) return disk;
  OpenFailure failure = std::move(disk.error());
  failure.detail = fmt::format("{}{}{}", target->to_string(), failure.detail.empty() ? "" : ": ",
                               failure.detail);
  return std::unexpected(std::move(failure));
}

}  // namespace

OpenResult<std::shared_ptr<Disk>> NbdFactory::open(const OpenOptions& options) {
  return open_nbd(options);
}

OpenResult<std::shared_ptr<Disk>> NbdFactory::take_over(const OpenOptions& options,
                                                        DiskSnapshot snapshot) {
  auto disk = open_nbd(options);
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
