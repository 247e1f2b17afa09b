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

/// The memory in which a backend writes down what it has taken and not answered, so that the one
/// that comes after it, when it was killed, knows (vhost-user, "Inflight I/O tracking").
namespace guestio::vhost {

/// What the regions of both kinds begin with.
struct InflightHeader {
  std::uint64_t features;  ///< of the region; none exist
  std::uint16_t version;   ///< 0: nothing was written here yet
  std::uint16_t desc_num;  ///< the queue's size
};
inline constexpr std::uint16_t kInflightVersion = 1;

/// One region for each queue, in one shared memory file. The front-end keeps the file while no
/// backend is there, and may do with it what it likes: cut it off, write into it, hand back
/// another. So whatever is behind region() is touched through guestio/mem/recover.h only, and what
/// is read there is checked.
///
/// Threads: any; each region is one ring's.
class InflightRecord {
 public:
  /// A new file for `queues` queues of up to `queue_size` entries: nothing is in flight.
  /// Errors: peer fault (no such queues), host.
  static Result<std::shared_ptr<InflightRecord>> create(virtio::RingKind kind, std::uint16_t queues,
                                                        std::uint16_t queue_size);
  /// The file that a front-end hands back. Errors: peer fault (numbers that cannot be, or a file
  /// that is shorter than they say), host.
  static Result<std::shared_ptr<InflightRecord>> map(const InflightDescription& description,
                                                     UniqueFd file, virtio::RingKind kind);

  [[nodiscard]] const InflightDescription& description() const noexcept { return description_; }
  [[nodiscard]] int fd() const noexcept { return file_.get(); }
  [[nodiscard]] virtio::RingKind kind() const noexcept { return kind_; }

  /// The memory of a queue of `size` entries, or nothing when there is none in this record.
  [[nodiscard]] std::byte* region(std::uint16_t queue, std::uint32_t size) const noexcept;
  /// The queue was stopped with all answered: it may begin anew anywhere. Errors: memory fault.
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
  Mapping mapping_;  // the regions, and nothing else of the file
  virtio::RingKind kind_;
};

/// Its memory is not there: the front-end cut the file off.
[[nodiscard]] inline std::unexpected<Error> fail_record_access() noexcept {
  return fail(ErrorKind::kMemoryFault, "access to an in-flight record");
}

/// Bytes of one queue's region.
[[nodiscard]] std::size_t inflight_region_bytes(virtio::RingKind kind,
                                                std::uint32_t queue_size) noexcept;

}  // namespace guestio::vhost
