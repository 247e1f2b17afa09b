// SPDX-License-Identifier: MIT
#include "guestio/buf/io_buffer.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "guestio/mem/recover.h"

namespace guestio::buf {
namespace {

TEST(IoBuffer, Fault01IsEmptyAndValidByDefault) {
  const IoBuffer buffer;
  EXPECT_TRUE(buffer.is_empty());
  EXPECT_EQ(buffer.data, nullptr);
  EXPECT_EQ(std::vector<std::byte>(buffer.data, buffer.end()).size(), 0u);
  EXPECT_EQ(buffer.subsegment(0, 0), buffer);
  std::byte byte{};
  EXPECT_EQ(mem::try_copy(&byte, buffer.data, buffer.length), 0u);
  EXPECT_EQ(mem::try_copy(buffer.data, &byte, buffer.length), 0u);
}

TEST(IoBuffer, IsAnIovec) {
  std::array<std::byte, 8> bytes{};
  const std::array buffers = {IoBuffer{bytes.data(), 8},
                              IoBuffer{bytes.data(), 8}.subsegment(2, 3)};
  const auto iovecs = as_iovecs(buffers);
  ASSERT_EQ(iovecs.size(), 2u);
  EXPECT_EQ(iovecs[0].iov_base, bytes.data());
  EXPECT_EQ(iovecs[0].iov_len, 8u);
  EXPECT_EQ(iovecs[1].iov_base, bytes.data() + 2);
  EXPECT_EQ(iovecs[1].iov_len, 3u);
}

}  // namespace
}  // namespace guestio::buf
