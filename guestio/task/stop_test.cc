// SPDX-License-Identifier: MIT
#include "guestio/task/stop.h"

#include <gmock/gmock.h>

#include <memory>
#include <vector>

namespace guestio::task {
namespace {

using ::testing::ElementsAre;

TEST(StopToken, WithoutASourceIsNeverStopped) { EXPECT_FALSE(StopToken().stop_requested()); }

TEST(StopSource, TellsItsTokens) {
  StopSource source;
  const StopToken token = source.token();
  EXPECT_FALSE(token.stop_requested());
  source.request_stop();
  EXPECT_TRUE(token.stop_requested());
}

TEST(StopSource, CallsListenersOnceAndInOrder) {
  std::vector<int> calls;
  StopSource source;
  const StopCallback first(source.token(), [&]() noexcept { calls.push_back(1); });
  const StopCallback second(source.token(), [&]() noexcept { calls.push_back(2); });
  source.request_stop();
  source.request_stop();
  EXPECT_THAT(calls, ElementsAre(1, 2));
}

TEST(StopSource, DoesNotCallADestroyedListener) {
  int calls = 0;
  StopSource source;
  {
    const StopCallback callback(source.token(), [&]() noexcept { ++calls; });
  }
  source.request_stop();
  EXPECT_EQ(calls, 0);
}

TEST(StopCallback, OfAStoppedSourceIsCalledImmediately) {
  int calls = 0;
  StopSource source;
  source.request_stop();
  const StopCallback callback(source.token(), [&]() noexcept { ++calls; });
  EXPECT_EQ(calls, 1);
}

TEST(StopCallback, WithoutASourceIsNeverCalled) {
  int calls = 0;
  {
    const StopCallback callback(StopToken(), [&]() noexcept { ++calls; });
  }
  EXPECT_EQ(calls, 0);
}

struct Tell final : StopListener {
  explicit Tell(std::unique_ptr<Tell>& other) : victim(other) {}
  void on_stop() noexcept override {
    ++calls;
    victim.reset();
  }
  std::unique_ptr<Tell>& victim;
  int calls = 0;
};

TEST(StopSource, AListenerMayDestroyTheNextOne) {
  std::unique_ptr<Tell> none;
  auto second = std::make_unique<Tell>(none);
  StopSource source;
  Tell first(second);
  ASSERT_TRUE(first.listen(source.token()));
  ASSERT_TRUE(second->listen(source.token()));
  source.request_stop();
  EXPECT_EQ(first.calls, 1);
  EXPECT_EQ(second, nullptr);
}

TEST(StopSource, AListenerMayDestroyTheSource) {
  auto source = std::make_unique<StopSource>();
  int calls = 0;
  const auto token = source->token();
  const StopCallback first(token, [&]() noexcept { source.reset(); });
  const StopCallback second(token, [&]() noexcept { ++calls; });
  source->request_stop();
  EXPECT_EQ(source, nullptr);
  EXPECT_EQ(calls, 1);
}

TEST(StopSource, StopsWithItsParent) {
  StopSource parent;
  StopSource child(parent.token());
  const StopSource sibling(parent.token());
  child.request_stop();
  EXPECT_FALSE(parent.stop_requested());
  EXPECT_FALSE(sibling.stop_requested());
  parent.request_stop();
  EXPECT_TRUE(sibling.stop_requested());
}

TEST(StopSource, OfAStoppedParentIsStoppedFromTheStart) {
  StopSource parent;
  parent.request_stop();
  const StopSource child(parent.token());
  EXPECT_TRUE(child.stop_requested());
}

TEST(StopSourceDeathTest, DestroyingItWithAListenerIsABug) {
  EXPECT_DEATH(
      {
        std::unique_ptr<Tell> none;
        Tell listener(none);
        StopSource source;
        (void)listener.listen(source.token());
      },
      "no listeners at the end of a stop source");
}

}  // namespace
}  // namespace guestio::task
