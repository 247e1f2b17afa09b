// SPDX-License-Identifier: MIT
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

#include "guestio/base/unique_fd.h"
#include "guestio/mem/address_range.h"
#include "guestio/mem/mapped_memory.h"

/// Short forms of guest addresses and contents, for tests.
namespace guestio::mem::test {

/// The maximum address, page number or length.
inline constexpr std::uint64_t kTop = ~std::uint64_t{0};

inline AddressRange range(std::uint64_t start, std::uint64_t length) {
  return AddressRange::from_checked(Gpa(start), length);
}

/// A memfd of `size` bytes; empty on failure.
inline UniqueFd make_memfd(std::uint64_t size, unsigned flags = 0) {
  UniqueFd fd(::memfd_create("guest-memory-test", MFD_CLOEXEC | flags));
  if (fd && ::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) fd.reset();
  return fd;
}

inline FileRegion region(std::uint64_t start, std::uint64_t size, const UniqueFd& fd,
                         std::uint64_t offset = 0) {
  return {Gpa(start), ByteCount(size), fd.get(), FileOffset(offset)};
}

}  // namespace guestio::mem::test
