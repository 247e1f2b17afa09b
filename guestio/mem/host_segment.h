// SPDX-License-Identifier: MIT
#pragma once

#include <sys/uio.h>

#include <boost/container/small_vector.hpp>
#include <cstddef>
#include <type_traits>

/// Guest memory as the kernel sees it.
namespace guestio::mem {

/// Host bytes that may be shared with the guest, laid out as an `iovec`. Not to be dereferenced:
/// they change and can go away at any moment (see recover.h).
struct HostSegment {
  std::byte* data = nullptr;
  std::size_t length = 0;

  friend bool operator==(const HostSegment&, const HostSegment&) noexcept = default;
};

static_assert(sizeof(HostSegment) == sizeof(iovec) && alignof(HostSegment) == alignof(iovec));
static_assert(offsetof(HostSegment, data) == offsetof(iovec, iov_base));
static_assert(offsetof(HostSegment, length) == offsetof(iovec, iov_len));
static_assert(std::is_trivially_copyable_v<HostSegment> && std::is_standard_layout_v<HostSegment>);

/// Storage for segments that takes the first N without the heap.
template <std::size_t N>
using SegmentArray = boost::container::small_vector<HostSegment, N>;

/// A SegmentArray of any capacity, to be filled by GuestMemory::lock().
using SegmentList = boost::container::small_vector_base<HostSegment>;

/// The segments as system calls take them. HostSegment has iovec's layout, and the kernel is the
/// only reader.
[[nodiscard]] inline const iovec* as_iovecs(const HostSegment* segments) noexcept {
  return reinterpret_cast<const iovec*>(segments);
}

}  // namespace guestio::mem
