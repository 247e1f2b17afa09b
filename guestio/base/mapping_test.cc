// SPDX-License-Identifier: MIT
#include "guestio/base/mapping.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include "guestio/base/unique_fd.h"

namespace guestio {
namespace {

UniqueFd make_memfd(std::size_t size) {
  UniqueFd fd(::memfd_create("mapping-test", MFD_CLOEXEC));
  EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(size)), 0);
  return fd;
}

TEST(Mapping, ReservesAlignedAddressSpace) {
  const auto mapping = Mapping::reserve(std::size_t{1} << 32, std::size_t{1} << 30);
  ASSERT_TRUE(mapping.has_value());
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(mapping->data()) % (std::size_t{1} << 30), 0u);
}

TEST(Mapping, MapsAFileOverReservedAddressesAndUnmapsIt) {
  auto mapping = Mapping::reserve(4 * kPageSize, kPageSize);
  ASSERT_TRUE(mapping.has_value());
  const UniqueFd file = make_memfd(kPageSize);
  ASSERT_EQ(::pwrite(file.get(), "guest", 5, 0), 5);
  ASSERT_TRUE(mapping->map_file_at(kPageSize, file.get(), FileOffset(0), kPageSize,
                                   Mapping::Access::kReadWrite));
  EXPECT_EQ(static_cast<char>(mapping->data()[kPageSize]), 'g');
  ASSERT_TRUE(mapping->unmap_at(kPageSize, kPageSize));
  unsigned char resident = 0;
  EXPECT_EQ(::mincore(mapping->data() + kPageSize, kPageSize, &resident), 0)
      << "the range is still mapped";
}

TEST(Mapping, ABadDescriptorIsAHostError) {
  const auto mapping = Mapping::shared_file(-1, FileOffset(0), kPageSize, Mapping::Access::kRead);
  ASSERT_FALSE(mapping.has_value());
  EXPECT_EQ(mapping.error().host_errno, EBADF);
}

TEST(Mapping, AMoveTransfersTheRange) {
  auto mapping = Mapping::anonymous(kPageSize);
  ASSERT_TRUE(mapping.has_value());
  std::byte* const data = mapping->data();
  const Mapping moved = std::move(*mapping);
  EXPECT_EQ(moved.data(), data);
  EXPECT_FALSE(static_cast<bool>(*mapping));  // NOLINT(bugprone-use-after-move): as above
}

}  // namespace
}  // namespace guestio
