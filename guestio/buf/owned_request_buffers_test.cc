// SPDX-License-Identifier: MIT
#include "guestio/buf/owned_request_buffers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <optional>
#include <vector>

namespace guestio::buf {
namespace {

using mem::AddressRange;
using mem::GuestMemory;
using testing::ElementsAre;

class OwnedRequestBuffersTest : public testing::Test {
 protected:
  GuestMemory memory_ = *GuestMemory::allocate(ByteCount(1 << 20));
  std::byte* host_ = *memory_.host_range(Gpa(0), 1);
};

TEST_F(OwnedRequestBuffersTest, WholePagesOutliveTheList) {
  std::optional<std::array<Gpn, 2>> gpns{{Gpn(5), Gpn(2)}};
  const auto owned = OwnedRequestBuffers::from_whole_pages(*gpns);
  gpns.reset();
  EXPECT_EQ(owned.size(), 8192u);
  EXPECT_EQ(owned.pages(), 2u);
  EXPECT_THAT(owned.buffers(memory_).lock(MemoryAccess::kWritable)->segments(),
              ElementsAre(IoBuffer{host_ + 0x5000, 4096}, IoBuffer{host_ + 0x2000, 4096}));
}

TEST_F(OwnedRequestBuffersTest, AnOffsetMayLiePastTheFirstPage) {
  const std::array gpns{Gpn(5), Gpn(2), Gpn(9)};
  const auto owned = OwnedRequestBuffers::from_pages(gpns, 5000, 10);
  ASSERT_TRUE(owned);
  EXPECT_EQ(owned->pages(), 1u);
  EXPECT_THAT(owned->buffers(memory_).lock(MemoryAccess::kWritable)->segments(),
              ElementsAre(IoBuffer{host_ + 0x2000 + 904, 10}));
}

TEST_F(OwnedRequestBuffersTest, BytesBeyondThePagesAreAnError) {
  const std::array gpns{Gpn(5)};
  EXPECT_TRUE(OwnedRequestBuffers::from_pages(gpns, 0, 4096));
  EXPECT_TRUE(OwnedRequestBuffers::from_pages(gpns, 4096, 0));
  EXPECT_EQ(OwnedRequestBuffers::from_pages(gpns, 1, 4096).error().kind, ErrorKind::kOutOfRange);
  EXPECT_EQ(OwnedRequestBuffers::from_pages(gpns, ~0ull, 2).error().kind, ErrorKind::kOutOfRange);
  EXPECT_EQ(OwnedRequestBuffers::from_pages({}, 0, ~0ull).error().kind, ErrorKind::kOutOfRange);
}

TEST_F(OwnedRequestBuffersTest, Fault03LinearCountsTheOffsetInThePage) {
  struct Case {
    std::uint64_t address;
    std::uint64_t length;
    std::uint64_t pages;
  };
  for (const auto& [address, length, pages] :
       {Case{1, 4096, 2}, Case{0x800, 0x1000, 2}, Case{4095, 2, 2}, Case{4000, 200, 2},
        Case{4096, 4096, 1}, Case{0, 0, 0}, Case{4095, 1, 1}, Case{4095, 4098, 3}}) {
    const auto owned = OwnedRequestBuffers::linear(Gpa(address), length);
    ASSERT_TRUE(owned);
    EXPECT_EQ(owned->pages(), pages) << address << " " << length;
    EXPECT_EQ(owned->size(), length);
    const RequestBuffers buffers = owned->buffers(memory_);
    EXPECT_EQ(buffers.size(), length);
    const auto locked = buffers.lock(MemoryAccess::kWritable);
    ASSERT_TRUE(locked);
    std::vector<IoBuffer> expected;
    if (length != 0) expected.push_back({host_ + address, length});
    EXPECT_THAT(locked->segments(), testing::ElementsAreArray(expected));
  }
}

TEST_F(OwnedRequestBuffersTest, Fault03HugeLengthsFail) {
  EXPECT_EQ(OwnedRequestBuffers::linear(Gpa(0), ~0ull).error().kind, ErrorKind::kTooLarge);
  EXPECT_EQ(OwnedRequestBuffers::linear(Gpa(~0ull), ~0ull).error().kind, ErrorKind::kTooLarge);
  EXPECT_EQ(OwnedRequestBuffers::linear(Gpa(0), 1ull << 40).error().kind, ErrorKind::kTooLarge);
  EXPECT_EQ(OwnedRequestBuffers::linear(Gpa(~0ull), 2).error().kind, ErrorKind::kOutOfRange);
  EXPECT_TRUE(OwnedRequestBuffers::linear(Gpa(~0ull), 1));
}

TEST_F(OwnedRequestBuffersTest, ExtentsAndDirectionAreKept) {
  const std::array extents{AddressRange::from_checked(Gpa(10), 5),
                           AddressRange::from_checked(Gpa(0x7ffe), 4)};
  const auto owned = OwnedRequestBuffers::from_extents(extents, MemoryAccess::kReadOnly);
  ASSERT_TRUE(owned);
  EXPECT_EQ(owned->pages(), 3u);
  // NOLINTNEXTLINE(performance-unnecessary-copy-initialization): a copy is what is tested
  const OwnedRequestBuffers copy = *owned;
  EXPECT_EQ(copy.buffers(memory_).access(), MemoryAccess::kReadOnly);
  EXPECT_EQ(copy.buffers(memory_).lock(MemoryAccess::kWritable).error().kind, ErrorKind::kReadOnly);
  EXPECT_THAT(copy.buffers(memory_).lock(MemoryAccess::kReadOnly)->segments(),
              ElementsAre(IoBuffer{host_ + 10, 5}, IoBuffer{host_ + 0x7ffe, 4}));
}

}  // namespace
}  // namespace guestio::buf
