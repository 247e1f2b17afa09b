// SPDX-License-Identifier: MIT
#include <guestio/disk/registry.h>

#include <utility>

#include "join_disk.h"

namespace join {

class JoinFactory final : public guestio::disk::DiskFactory {
 public:
  guestio::disk::OpenResult<std::shared_ptr<guestio::disk::Disk>> open(
      const guestio::disk::OpenOptions& options) override {
    return JoinDisk::open(options, guestio::UniqueFd());
  }
  /// The successor gets the first piece with its lock, and opens the others anew.
  guestio::disk::OpenResult<std::shared_ptr<guestio::disk::Disk>> take_over(
      const guestio::disk::OpenOptions& options, guestio::disk::DiskSnapshot snapshot) override {
    auto disk = JoinDisk::open(options, std::move(snapshot.io));
    if (disk && (*disk)->info().size != snapshot.size) {
      const auto error = guestio::Error::make(guestio::ErrorKind::kUnsupported,
                                              "pieces of another size than before");
      return std::unexpected(guestio::disk::OpenFailure{error, {}});
    }
    return disk;
  }
};

GUESTIO_DISK_MODULE(JoinFactory);

}  // namespace join
