// SPDX-License-Identifier: MIT
#include "guestio/vhost/wire/message_name.h"

#include <gtest/gtest.h>

namespace guestio::vhost {
namespace {

TEST(MessageName, IsTheNameInTheSpecification) {
  EXPECT_EQ(message_name(1), "GET_FEATURES");
  EXPECT_EQ(message_name(5), "SET_MEM_TABLE");
  EXPECT_EQ(message_name(12), "SET_VRING_KICK");
  EXPECT_EQ(message_name(21), "SET_BACKEND_REQ_FD");
  EXPECT_EQ(message_name(35), "VRING_KICK");
  EXPECT_EQ(message_name(43), "CHECK_DEVICE_STATE");
}

TEST(MessageName, OfAnUnknownMessageIsItsNumber) {
  EXPECT_EQ(message_name(0), "unknown message 0");
  EXPECT_EQ(message_name(44), "unknown message 44");
  EXPECT_EQ(message_name(0xffffffff), "unknown message 4294967295");
}

}  // namespace
}  // namespace guestio::vhost
