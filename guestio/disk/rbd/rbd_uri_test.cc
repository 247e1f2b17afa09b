// SPDX-License-Identifier: MIT
#include "guestio/disk/rbd/rbd_uri.h"

#include <gtest/gtest.h>

#include <string>

namespace guestio::disk {
namespace {

TEST(RbdUri, NamesPoolAndImage) {
  const auto uri = parse_rbd_uri("rbd:rbd/img");
  ASSERT_TRUE(uri) << uri.error();
  EXPECT_EQ(*uri, (RbdUri{.pool = "rbd", .image = "img"}));
  EXPECT_EQ(uri->user, "admin");
  EXPECT_EQ(uri->to_string(), "rbd/img");
}

TEST(RbdUri, TakesNamespaceSnapshotAndParameters) {
  const auto uri = parse_rbd_uri("rbd:p/ns/img@snap:1?id=vm&conf=/etc/ceph/a.conf&namespace=ns");
  ASSERT_TRUE(uri) << uri.error();
  EXPECT_EQ(*uri, (RbdUri{.pool = "p",
                          .pool_namespace = "ns",
                          .image = "img",
                          .snapshot = "snap:1",
                          .user = "vm",
                          .conf = "/etc/ceph/a.conf"}));
  EXPECT_EQ(uri->to_string(), "p/ns/img@snap:1");
}

TEST(RbdUri, TheNamespaceMayBeAParameter) {
  EXPECT_EQ(parse_rbd_uri("rbd:p/img?namespace=ns")->pool_namespace, "ns");
}

TEST(RbdUri, NamesMayBePercentEncoded) {
  const auto uri = parse_rbd_uri("rbd:a%2Fb/c%40d@e%3f?conf=%2ftmp%2fx%26y");
  ASSERT_TRUE(uri) << uri.error();
  EXPECT_EQ(uri->pool, "a/b");
  EXPECT_EQ(uri->image, "c@d");
  EXPECT_EQ(uri->snapshot, "e?");
  EXPECT_EQ(uri->conf, "/tmp/x&y");
}

struct Refusal {
  const char* uri;
  const char* because;
};

class RefusedRbdUri : public ::testing::TestWithParam<Refusal> {};

TEST_P(RefusedRbdUri, SaysWhy) {
  const auto uri = parse_rbd_uri(GetParam().uri);
  ASSERT_FALSE(uri.has_value());
  EXPECT_NE(uri.error().find(GetParam().because), std::string::npos) << uri.error();
}

INSTANTIATE_TEST_SUITE_P(
    All, RefusedRbdUri,
    ::testing::Values(Refusal{"rbd:img", "form"}, Refusal{"rbd:a/b/c/d", "form"},
                      Refusal{"rbd:/img", "no pool"}, Refusal{"rbd:p/", "no image"},
                      Refusal{"rbd:p//i", "no namespace"}, Refusal{"rbd:p/i@", "no snapshot"},
                      Refusal{"rbd:p/i?key=x", "unknown parameter 'key'"},
                      Refusal{"rbd:p/i?", "unknown parameter ''"},
                      Refusal{"rbd:p/i?id", "without a value"}, Refusal{"rbd:p/i?id=", "no id"},
                      Refusal{"rbd:p/i%", "percent"}, Refusal{"rbd:p/i%4", "percent"},
                      Refusal{"rbd:p/i%zz", "percent"}, Refusal{"rbd:p/i%00x", "percent"},
                      Refusal{"rbd:p/n/i?namespace=m", "two namespaces"}));

}  // namespace
}  // namespace guestio::disk
