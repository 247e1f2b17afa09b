// SPDX-License-Identifier: MIT
#include "apps/shared/suggestion.h"

#include <gtest/gtest.h>

#include <vector>

namespace guestio::app {
namespace {

TEST(Suggestion, DistanceCountsInsertedDeletedReplacedAndExchangedLetters) {
  EXPECT_EQ(edit_distance("", ""), 0u);
  EXPECT_EQ(edit_distance("abc", "abc"), 0u);
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_EQ(edit_distance("abc", ""), 3u);
  EXPECT_EQ(edit_distance("abc", "abxc"), 1u);
  EXPECT_EQ(edit_distance("abc", "ac"), 1u);
  EXPECT_EQ(edit_distance("abc", "axc"), 1u);
  EXPECT_EQ(edit_distance("abc", "acb"), 1u);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
}

TEST(Suggestion, OnlyANearNameIsSuggested) {
  const std::vector<std::string> names = {"socket-path", "fd", "threads", "blk-file", "read-only"};
  EXPECT_EQ(suggest("sokcet-path", names, "--"), " (did you mean --socket-path?)");
  EXPECT_EQ(suggest("socket", names, "--"), " (did you mean --socket-path?)");
  EXPECT_EQ(suggest("thread", names), " (did you mean threads?)");
  EXPECT_EQ(suggest("blkfile", names), " (did you mean blk-file?)");
  EXPECT_EQ(suggest("nonsense", names), "");
  EXPECT_EQ(suggest("", names), "");
  EXPECT_EQ(suggest(std::string(1 << 20, 'x'), names), "");
}

}  // namespace
}  // namespace guestio::app
