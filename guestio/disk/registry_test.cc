// SPDX-License-Identifier: MIT
#include "guestio/disk/registry.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "guestio/disk/null_disk.h"
#include "testing/temporary.h"

namespace guestio::disk {
namespace {

class NullFactory final : public DiskFactory {
 public:
  OpenResult<std::shared_ptr<Disk>> open(const OpenOptions&) override {
    return std::unexpected(OpenFailure{});
  }
  OpenResult<std::shared_ptr<Disk>> take_over(const OpenOptions& options, DiskSnapshot) override {
    return open(options);
  }
};

TEST(SchemeOf, IsTheWordBeforeTheColon) {
  EXPECT_EQ(scheme_of("nbd+unix:///?socket=s"), "nbd+unix");
  EXPECT_EQ(scheme_of("null:1G"), "null");
  EXPECT_EQ(after_scheme("rbd:pool/image@snap:1"), "pool/image@snap:1");
}

TEST(SchemeOf, PathsHaveNone) {
  for (const char* const path : {"disk.img", "/a:b", "./nbd:x", ":x", "", "A:b", "1:x", "a b:c"}) {
    EXPECT_FALSE(scheme_of(path).has_value()) << path;
  }
}

TEST(DiskRegistry, GivesCompiledInBackends) {
  NullFactory factory;
  DiskRegistry registry({});
  registry.add("null", factory);
  EXPECT_TRUE(registry.knows("null"));
  EXPECT_EQ(*registry.find("null"), &factory);
}

TEST(DiskRegistry, NamesThePackageOfAMissingModule) {
  DiskRegistry registry({"/nowhere"});
  for (const char* const scheme : {"nbd", "nbds", "nbd+unix", "nbds+unix"}) {
    EXPECT_TRUE(registry.knows(scheme)) << scheme;
    const auto found = registry.find(scheme);
    ASSERT_FALSE(found.has_value());
    EXPECT_NE(found.error().find("install the package guestio-disk-nbd"), std::string::npos)
        << found.error();
    EXPECT_NE(found.error().find("/nowhere"), std::string::npos) << found.error();
  }
  EXPECT_NE(registry.find("rbd").error().find("guestio-disk-rbd"), std::string::npos);
}

TEST(DiskRegistry, DoesNotKnowOtherSchemes) {
  DiskRegistry registry({"/nowhere"});
  EXPECT_FALSE(registry.knows("http"));
  EXPECT_NE(registry.find("http").error().find("no backend 'http'"), std::string::npos);
}

TEST(DiskRegistry, FindsModulesOfThirdParties) {
  const testing::TemporaryDirectory folder;
  std::ofstream(folder.file("libguestio-disk-own.so")) << "no shared object";
  DiskRegistry registry({"/nowhere", folder.path()});
  EXPECT_TRUE(registry.knows("own"));
  const auto found = registry.find("own");
  ASSERT_FALSE(found.has_value());
  EXPECT_NE(found.error().find("does not load"), std::string::npos) << found.error();
}

TEST(OpenFailure, PrefersTheWordsOfTheLibrary) {
  const Error error = fail(ErrorKind::kInvalidArgument, "an export").error();
  const OpenFailure plain{error, ""};
  const OpenFailure detailed{error, "no such export"};
  EXPECT_EQ(plain.to_string(), error.to_string());
  EXPECT_EQ(detailed.to_string(), "an export: no such export");
}

}  // namespace
}  // namespace guestio::disk
