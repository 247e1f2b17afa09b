// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "guestio/base/error.h"
#include "guestio/base/mapping.h"
#include "guestio/base/unique_fd.h"
#include "guestio/vhost/wire/messages.h"
#include "guestio/virtio/layout.h"

/// The record of a backend's chains in flight, for the backend that follows one that was killed
/// (vhost-user, "Inflight I/O tracking").
namespace guestio::vhost {

/// The start of the regions of both kinds.
struct InflightHeader {
  std::uint64_t features;  ///< of the region; none are defined
  std::uint16_t version;   ///< 0: not formatted yet
  std::uint16_t desc_num;  ///< the queue's size
};
inline constexpr std::uint16_t kInflightVersion = 1;

/// One region per queue, in one shared memory file. The front-end keeps the file between backends,
/// and may truncate it, write into it or return another. So access region() through
/// guestio/mem/recover.h only, and check the values.
///
/// Threads: any; each region is one ring's.
class InflightRecord {
 public:
  /// A new file for `queues` queues of up to `queue_size` entries, with nothing in flight.
  /// Errors: peer fault (invalid number or size of queues), host.
  static Result<std::shared_ptr<InflightRecord>> create(virtio::RingKind kind, std::uint16_t queues,
                                                        std::uint16_t queue_size);
  /// A file from the front-end. Errors: peer fault (invalid description, or a shorter file), host.
  static Result<std::shared_ptr<InflightRecord>> map(const InflightDescription& description,
                                                     UniqueFd file, virtio::RingKind kind);

  [[nodiscard]] const InflightDescription& description() const noexcept { return description_; }
  [[nodiscard]] int fd() const noexcept { return file_.get(); }
  [[nodiscard]] virtio::RingKind kind() const noexcept { return kind_; }

  /// The memory of a queue of `size` entries; null if this record has none.
  [[nodiscard]] std::byte* region(std::uint16_t queue, std::uint32_t size) const noexcept;
  /// The queue was stopped with nothing in flight: it may restart at any index. Errors: memory
  /// fault.
  Result<> reset(std::uint16_t queue) const;

 private:
  InflightRecord(const InflightDescription& description, UniqueFd file, Mapping mapping,
                 virtio::RingKind kind) noexcept
      : description_(description),
        file_(std::move(file)),
        mapping_(std::move(mapping)),
        kind_(kind) {}

  InflightDescription description_;
  UniqueFd file_;
  Mapping mapping_;  // the regions only
  virtio::RingKind kind_;
};

/// The memory of a record is gone: the front-end truncated the file.
[[nodiscard]] inline std::unexpected<Error> fail_record_access() noexcept {
  return fail(ErrorKind::kMemoryFault, "access to an in-flight record");
}

/// Bytes of one queue's region.
[[nodiscard]] std::size_t inflight_region_bytes(virtio::RingKind kind,
                                                std::uint32_t queue_size) noexcept;

}  // namespace guestio::vhost
