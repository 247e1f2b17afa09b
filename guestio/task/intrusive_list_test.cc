// SPDX-License-Identifier: MIT
#include "guestio/task/intrusive_list.h"

#include <gmock/gmock.h>

#include <memory>
#include <vector>

namespace guestio::task {
namespace {

using ::testing::ElementsAre;

struct Item : ListNode<Item> {
  explicit Item(int item_value) : value(item_value) {}
  int value;
};

std::vector<int> drain(IntrusiveList<Item>& list) {
  std::vector<int> values;
  while (Item* const item = list.pop_front()) values.push_back(item->value);
  return values;
}

TEST(IntrusiveList, PopsItsMembersInInsertionOrder) {
  IntrusiveList<Item> list;
  Item first(1), second(2), third(3);
  list.push_back(first);
  list.push_back(second);
  list.push_back(third);
  EXPECT_EQ(list.front(), &first);
  EXPECT_THAT(drain(list), ElementsAre(1, 2, 3));
  EXPECT_TRUE(list.is_empty());
  EXPECT_EQ(list.front(), nullptr);
}

TEST(IntrusiveList, ADestroyedMemberUnlinksItself) {
  IntrusiveList<Item> list;
  Item first(1), last(3);
  auto middle = std::make_unique<Item>(2);
  list.push_back(first);
  list.push_back(*middle);
  list.push_back(last);
  middle.reset();
  EXPECT_THAT(drain(list), ElementsAre(1, 3));
}

TEST(IntrusiveList, ItsDestructorUnlinksItsMembers) {
  Item item(1);
  {
    IntrusiveList<Item> list;
    list.push_back(item);
    EXPECT_TRUE(item.is_linked());
  }
  EXPECT_FALSE(item.is_linked());
}

TEST(IntrusiveList, UnlinkingAFreeNodeIsANoOp) {
  Item item(1);
  item.unlink();
  EXPECT_FALSE(item.is_linked());
}

TEST(IntrusiveList, SplicesAnotherListToItsBack) {
  IntrusiveList<Item> list;
  IntrusiveList<Item> other;
  Item first(1), second(2), third(3);
  list.push_back(first);
  other.push_back(second);
  other.push_back(third);
  list.splice_back(other);
  list.splice_back(other);  // empty by now
  EXPECT_TRUE(other.is_empty());
  EXPECT_THAT(drain(list), ElementsAre(1, 2, 3));
}

}  // namespace
}  // namespace guestio::task
