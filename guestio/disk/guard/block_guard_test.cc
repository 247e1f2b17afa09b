// SPDX-License-Identifier: MIT
#include "guestio/disk/guard/block_guard.h"

#include <gtest/gtest.h>

namespace guestio::disk {
namespace {

using Kind = BlockGuard::Kind;

class Claim final : public BlockGuard::Claim {
 public:
  Claim(std::uint64_t start, std::uint64_t length, Kind kind)
      : BlockGuard::Claim(FileOffset(start), length, kind) {}
  void on_granted() noexcept override { granted = true; }
  bool granted = false;
};

TEST(BlockGuard, SharedClaimsDoNotExcludeEachOther) {
  BlockGuard guard;
  Claim first(0, 4096, Kind::kShared);
  Claim second(0, 4096, Kind::kShared);
  EXPECT_TRUE(guard.claim(first));
  EXPECT_TRUE(guard.claim(second));
  guard.release(first);
  guard.release(second);
}

TEST(BlockGuard, ExclusiveAndSharedClaimsExcludeEachOther) {
  BlockGuard guard;
  Claim whole(0, 8192, Kind::kShared);
  Claim partial(4096, 4096, Kind::kExclusive);
  Claim later(0, 8192, Kind::kShared);
  EXPECT_TRUE(guard.claim(whole));
  EXPECT_FALSE(guard.claim(partial));
  EXPECT_FALSE(guard.claim(later));
  guard.release(whole);
  EXPECT_TRUE(partial.granted);
  EXPECT_FALSE(later.granted);
  guard.release(partial);
  EXPECT_TRUE(later.granted);
  guard.release(later);
}

TEST(BlockGuard, AdjacentClaimsDoNotConflict) {
  BlockGuard guard;
  Claim left(0, 4096, Kind::kExclusive);
  Claim right(4096, 4096, Kind::kExclusive);
  EXPECT_TRUE(guard.claim(left));
  EXPECT_TRUE(guard.claim(right));
  guard.release(left);
  guard.release(right);
}

TEST(BlockGuard, AClaimWaitsForAllConflictingClaims) {
  BlockGuard guard;
  Claim first(0, 4096, Kind::kExclusive);
  Claim second(4096, 4096, Kind::kExclusive);
  Claim both(0, 8192, Kind::kExclusive);
  EXPECT_TRUE(guard.claim(first));
  EXPECT_TRUE(guard.claim(second));
  EXPECT_FALSE(guard.claim(both));
  guard.release(second);
  EXPECT_FALSE(both.granted);
  guard.release(first);
  EXPECT_TRUE(both.granted);
  guard.release(both);
}

}  // namespace
}  // namespace guestio::disk
