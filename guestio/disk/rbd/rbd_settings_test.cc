// SPDX-License-Identifier: MIT
#include "guestio/disk/rbd/rbd_settings.h"

#include <gtest/gtest.h>

namespace guestio::disk {
namespace {

TEST(RbdSettings, HaveDefaults) {
  const auto settings = parse_rbd_settings({});
  ASSERT_TRUE(settings);
  EXPECT_EQ(settings->images_per_connection, 8U);
  EXPECT_EQ(settings->io_timeout, std::chrono::seconds(30));
  EXPECT_FALSE(settings->breaks_lock);
  EXPECT_FALSE(settings->encryption);
}

TEST(RbdSettings, AreParsed) {
  const auto settings = parse_rbd_settings({{"rados-images-per-connection", "64"},
                                            {"io-timeout", "5"},
                                            {"break-lock", "on"},
                                            {"encryption", "luks2"},
                                            {"key-file", "/k"}});
  ASSERT_TRUE(settings) << settings.error();
  EXPECT_EQ(settings->images_per_connection, 64U);
  EXPECT_EQ(settings->io_timeout, std::chrono::seconds(5));
  EXPECT_TRUE(settings->breaks_lock);
  EXPECT_EQ(settings->encryption, RbdEncryption::kLuks2);
  EXPECT_EQ(settings->key_file, "/k");
}

TEST(RbdSettings, RefuseUnknownKeysAndValues) {
  using Settings = std::map<std::string, std::string, std::less<>>;
  for (const Settings& settings :
       {Settings{{"tls-psk-file", "x"}}, Settings{{"io-timeout", "0"}},
        Settings{{"io-timeout", "1s"}}, Settings{{"rados-images-per-connection", "65"}},
        Settings{{"break-lock", "yes"}}, Settings{{"encryption", "aes"}, {"key-file", "k"}},
        Settings{{"encryption", "luks1"}}, Settings{{"key-file", "k"}}}) {
    const auto parsed = parse_rbd_settings(settings);
    ASSERT_FALSE(parsed.has_value()) << settings.begin()->first;
    EXPECT_FALSE(parsed.error().empty());
  }
}

}  // namespace
}  // namespace guestio::disk
