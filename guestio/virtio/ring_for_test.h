// SPDX-License-Identifier: MIT
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>

#include "guestio/base/check.h"
#include "guestio/base/mapping.h"
#include "guestio/base/unique_fd.h"
#include "guestio/mem/guest_memory.h"
#include "guestio/mem/mapped_memory.h"
#include "guestio/mem/recover.h"
#include "guestio/virtio/packed_ring.h"
#include "guestio/virtio/split_ring.h"

/// For tests: a ring in memory mapped twice, for driver and device.
namespace guestio::virtio {

/// A memfd with one ring and room for data. driver() and device() are the same bytes at different
/// addresses.
class RingForTest {
 public:
  static constexpr std::size_t kBytes = std::size_t{8} << 20;
  static constexpr Gpa kStart{0x40000000};
  static constexpr Gpa kData{0x40000000 + (std::size_t{2} << 20)};
  static constexpr std::size_t kDataBytes = std::size_t{6} << 20;

  explicit RingForTest(std::uint32_t size) : size_(size) {
    GUESTIO_CHECK(mem::install_fault_recovery().has_value(), "signal handlers");
    fd_.reset(::memfd_create("ring-for-test", MFD_CLOEXEC));
    GUESTIO_CHECK(::ftruncate(fd_.get(), kBytes) == 0, "memory for the test");
    auto mapping =
        Mapping::shared_file(fd_.get(), FileOffset(0), kBytes, Mapping::Access::kReadWrite);
    GUESTIO_CHECK(mapping.has_value(), "a mapping for the test");
    mapping_ = std::move(*mapping);
    const std::array regions = {mem::FileRegion{.start = kStart,
                                                .size = ByteCount(kBytes),
                                                .fd = fd_.get(),
                                                .offset = FileOffset(0),
                                                .access = Mapping::Access::kReadWrite}};
    auto memory = mem::map_file_regions(regions);
    GUESTIO_CHECK(memory.has_value(), "guest memory for the test");
    memory_ = *memory;
  }

  [[nodiscard]] SplitRing driver() const { return ring_at(mapping_.data()); }
  [[nodiscard]] SplitRing device() const {
    const auto host = memory_.host_range(kStart, kBytes);
    GUESTIO_CHECK(host.has_value(), "one region");
    return ring_at(*host);
  }
  // The same memory as a packed ring.
  [[nodiscard]] PackedRing packed_driver() const { return packed_ring_at(mapping_.data()); }
  [[nodiscard]] PackedRing packed_device() const {
    const auto host = memory_.host_range(kStart, kBytes);
    GUESTIO_CHECK(host.has_value(), "one region");
    return packed_ring_at(*host);
  }
  [[nodiscard]] const mem::GuestMemory& memory() const { return memory_; }
  /// The driver's view of a guest address.
  [[nodiscard]] std::byte* at(Gpa address) const {
    return mapping_.data() + address.offset_from(kStart);
  }
  /// Truncates the memory file: all further accesses fault.
  void truncate() const { GUESTIO_CHECK(::ftruncate(fd_.get(), 0) == 0, "a shorter file"); }

  /// Writes descriptors into the ring's table.
  void put(std::span<const Descriptor> descriptors) const {
    std::uint16_t index = 0;
    for (const Descriptor& descriptor : descriptors) *driver().descriptor(index++) = descriptor;
  }
  /// Writes an indirect table into guest memory.
  void put_table(Gpa at, std::span<const Descriptor> descriptors) const {
    std::ranges::copy(std::as_bytes(descriptors), this->at(at));
  }
  /// Makes chains available as a driver would, from the present index on.
  void make_available(std::initializer_list<std::uint16_t> heads) const {
    const SplitRing ring = driver();
    for (const std::uint16_t head : heads) *ring.avail_head((*ring.avail_index())++) = head;
  }

 private:
  [[nodiscard]] SplitRing ring_at(std::byte* start) const {
    // Room for the largest ring.
    const auto ring = SplitRing::at(start, start + 0x80000, start + 0xa0000, size_);
    GUESTIO_CHECK(ring.has_value(), "a valid ring");
    return *ring;
  }

  [[nodiscard]] PackedRing packed_ring_at(std::byte* start) const {
    const auto ring = PackedRing::at(start, start + 0x80000, start + 0xa0000, size_);
    GUESTIO_CHECK(ring.has_value(), "a valid ring");
    return *ring;
  }

  std::uint32_t size_;
  UniqueFd fd_;
  Mapping mapping_;
  mem::GuestMemory memory_;
};

}  // namespace guestio::virtio
