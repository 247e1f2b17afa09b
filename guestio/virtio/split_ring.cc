// SPDX-License-Identifier: MIT
#include "guestio/virtio/split_ring.h"

#include "guestio/base/align.h"

namespace guestio::virtio {

namespace {

Result<> check_alignment(const std::byte* part, std::size_t alignment, const char* what) {
  const auto address = reinterpret_cast<std::uintptr_t>(part);
  if (is_aligned(address, alignment)) return {};
  return fail(ErrorKind::kMisaligned, what, address, alignment);
}

}  // namespace

SplitRing::SplitRing(Descriptor* descriptors, std::uint16_t* avail, std::byte* used,
                     std::uint16_t size) noexcept
    : descriptors_(descriptors),
      avail_(avail),
      // at() has checked the alignment, and both views of the used ring are integers.
      used_words_(reinterpret_cast<std::uint16_t*>(used)),
      used_elements_(reinterpret_cast<UsedElement*>(used + sizeof(UsedHeader))),
      size_(size) {}

Result<SplitRing> SplitRing::at(std::byte* descriptors, std::byte* avail, std::byte* used,
                                std::uint32_t size) {
  if (!is_split_queue_size(size)) return fail(ErrorKind::kInvalidArgument, "queue size", size);
  for (const auto& checked :
       {check_alignment(descriptors, kDescriptorTableAlignment, "descriptor table"),
        check_alignment(avail, kAvailRingAlignment, "available ring"),
        check_alignment(used, kUsedRingAlignment, "used ring")}) {
    if (!checked) return fail(checked.error());
  }
  // Aligned, and integers only: any bytes are valid values.
  return SplitRing(reinterpret_cast<Descriptor*>(descriptors),
                   reinterpret_cast<std::uint16_t*>(avail), used, static_cast<std::uint16_t>(size));
}

std::unexpected<Error> fail_ring_access(const void* address) noexcept {
  return fail(ErrorKind::kMemoryFault, "access to a ring",
              reinterpret_cast<std::uintptr_t>(address));
}

}  // namespace guestio::virtio
