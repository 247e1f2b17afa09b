// SPDX-License-Identifier: MIT
#include "guestio/disk/nbd/nbd_export.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

namespace guestio::disk {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

NbdExport usual() {
  return {.size = 4 * kMiB,
          .is_read_only = false,
          .can_flush = true,
          .can_fua = true,
          .can_trim = true,
          .can_zero = true,
          .can_multi_conn = true,
          .minimum = 1,
          .preferred = 4096,
          .maximum = 32 * kMiB};
}

OpenResult<NbdShape> shape(const NbdExport& facts, bool is_read_only = false,
                           std::uint64_t block_size = 512) {
  OpenOptions options;
  options.is_read_only = is_read_only;
  options.block_size = ByteCount(block_size);
  return shape_nbd_disk(facts, options);
}

TEST(NbdExport, AnUsualExportBecomesADiskWithAllAbilities) {
  const auto made = shape(usual());
  ASSERT_TRUE(made.has_value());
  EXPECT_EQ(made->info.size, ByteCount(4 * kMiB));
  EXPECT_EQ(made->info.physical_block_size, ByteCount(4096));
  EXPECT_TRUE(made->info.discard.has_value());
  EXPECT_EQ(made->limits.alignment, 512U);
  EXPECT_EQ(made->limits.max_transfer, 32 * kMiB);
  EXPECT_EQ(made->unserved_bytes, 0U);
}

TEST(NbdExport, AbsentConstraintsHaveTheDefaultsOfTheProtocol) {
  NbdExport facts = usual();
  facts.minimum = facts.preferred = facts.maximum = 0;
  const auto made = shape(facts);
  ASSERT_TRUE(made.has_value());
  EXPECT_EQ(made->limits.alignment, 512U);
  EXPECT_EQ(made->limits.max_transfer, 32 * kMiB);
  EXPECT_EQ(made->info.physical_block_size, ByteCount(4096));
}

TEST(NbdExport, ConstraintsLimitTheCommands) {
  NbdExport facts = usual();
  facts.minimum = 4096;
  facts.preferred = 65536;
  facts.maximum = 100'000;
  const auto made = shape(facts);
  ASSERT_TRUE(made.has_value());
  EXPECT_EQ(made->limits.alignment, 4096U);
  EXPECT_EQ(made->limits.max_transfer, 98'304U);
  EXPECT_EQ(made->limits.max_range % 4096, 0U);
  EXPECT_LT(made->limits.max_range, std::uint64_t{1} << 32);
  EXPECT_EQ(made->info.physical_block_size, ByteCount(65536));
}

TEST(NbdExport, AnUnlimitedServerGetsTheUsualCommands) {
  NbdExport facts = usual();
  facts.maximum = 0xffffffff;
  EXPECT_EQ(shape(facts)->limits.max_transfer, 32 * kMiB);
}

TEST(NbdExport, ConstraintsOutsideOfTheProtocolAreRefused) {
  struct Case {
    std::uint64_t minimum, preferred, maximum;
  };
  for (const Case& wrong :
       {Case{3, 4096, kMiB}, Case{131072, 131072, kMiB}, Case{512, 5000, kMiB},
        Case{4096, 512, kMiB}, Case{4096, 4096, 512}, Case{1, 1, 100},
        Case{~std::uint64_t{0}, 4096, kMiB}, Case{1, ~std::uint64_t{0}, kMiB}}) {
    NbdExport facts = usual();
    facts.minimum = wrong.minimum;
    facts.preferred = wrong.preferred;
    facts.maximum = wrong.maximum;
    const auto made = shape(facts);
    ASSERT_FALSE(made.has_value()) << wrong.minimum << ' ' << wrong.preferred;
    EXPECT_EQ(made.error().error.kind, ErrorKind::kPeerFault);
  }
}

TEST(NbdExport, BytesBehindTheLastBlockAreNotServed) {
  NbdExport facts = usual();
  facts.size = 4 * kMiB + 1000;
  EXPECT_EQ(shape(facts)->info.size, ByteCount(4 * kMiB + 512));
  EXPECT_EQ(shape(facts)->unserved_bytes, 488U);
  EXPECT_EQ(shape(facts, false, 4096)->info.size, ByteCount(4 * kMiB));
}

TEST(NbdExport, AnExportWithoutABlockIsRefused) {
  for (const std::uint64_t size : {0U, 511U}) {
    NbdExport facts = usual();
    facts.size = size;
    EXPECT_FALSE(shape(facts).has_value());
  }
}

TEST(NbdExport, AReadOnlyExportNeedsAReadOnlyDisk) {
  NbdExport facts = usual();
  facts.is_read_only = true;
  const auto refused = shape(facts);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().to_string(), "NBD export is read-only: set read-only=on");
  EXPECT_TRUE(shape(facts, true).has_value());
}

TEST(NbdExport, TheSameExportIsTheSameDisk) {
  const auto made = shape(usual());
  EXPECT_EQ(find_nbd_difference(usual(), usual(), made->limits, 4 * kMiB), std::nullopt);
  NbdExport more = usual();
  more.size = 8 * kMiB;
  EXPECT_EQ(find_nbd_difference(more, usual(), made->limits, 4 * kMiB), std::nullopt);
}

TEST(NbdExport, AnExportThatHasLostSomethingIsAnotherDisk) {
  const auto made = shape(usual());
  const std::vector<std::function<void(NbdExport&)>> losses = {
      [](NbdExport& facts) { facts.size -= 512; },
      [](NbdExport& facts) { facts.is_read_only = true; },
      [](NbdExport& facts) { facts.can_flush = false; },
      [](NbdExport& facts) { facts.can_fua = false; },
      [](NbdExport& facts) { facts.can_trim = false; },
      [](NbdExport& facts) { facts.can_zero = false; },
      [](NbdExport& facts) { facts.can_multi_conn = false; },
      [](NbdExport& facts) { facts.minimum = 4096; },
      [](NbdExport& facts) { facts.maximum = kMiB; },
      [](NbdExport& facts) { facts.minimum = 7; },
  };
  for (const auto& lose : losses) {
    NbdExport present = usual();
    lose(present);
    EXPECT_TRUE(find_nbd_difference(present, usual(), made->limits, 4 * kMiB).has_value());
  }
}

TEST(NbdExport, ItsTextIsReadBackUnchanged) {
  NbdExport facts{.size = (std::uint64_t{1} << 63) - 1,
                  .can_flush = true,
                  .can_trim = true,
                  .can_multi_conn = true,
                  .minimum = 512,
                  .preferred = 4096,
                  .maximum = 1 << 20};
  const auto read = parse_nbd_export(to_text(facts));
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(to_text(*read), to_text(facts));
  EXPECT_EQ(read->size, facts.size);
  EXPECT_EQ(read->maximum, facts.maximum);
  EXPECT_TRUE(read->can_multi_conn);
  EXPECT_FALSE(read->can_fua);
}

TEST(NbdExport, AnyOtherTextIsRefused) {
  for (const char* const text :
       {"", "1", "1 2 3 4 0 0 0 0 0", "1 2 3 4 0 0 0 0 0 2", "1 2 3 4 0 0 0 0 0 0 0",
        "1 2 3 4 0 0 0 0 0 x", "-1 2 3 4 0 0 0 0 0 0", "1  2 3 4 0 0 0 0 0 0",
        "99999999999999999999 2 3 4 0 0 0 0 0 0"}) {
    EXPECT_FALSE(parse_nbd_export(text).has_value()) << text;
  }
  EXPECT_TRUE(parse_nbd_export("1 2 3 4 0 0 0 0 0 1").has_value());
}

}  // namespace
}  // namespace guestio::disk
