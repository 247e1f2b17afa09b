// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "guestio/virtio/chain.h"
#include "guestio/virtio/driver_chain.h"
#include "guestio/virtio/ring_for_test.h"

/// For the tests of this room: both sides of a ring of either kind against each other, with a model
/// of the ring.
namespace guestio::virtio {

/// Size and features of a ring.
struct RingConfig {
  std::uint32_t size;
  FeatureBits features;
};

inline std::string name_of(const testing::TestParamInfo<RingConfig>& info) {
  std::string name = "Size" + std::to_string(info.param.size);
  if ((info.param.features & kFeatureEventIdx) != 0) name += "EventIdx";
  if ((info.param.features & kFeatureIndirectDesc) != 0) name += "Indirect";
  return name;
}

/// Drives both sides with random chains and batches, and checks them against a model.
template <typename Kind>
class RingExerciser {
 public:
  RingExerciser(const RingForTest& ring, const RingConfig& setting, std::uint16_t first_index)
      : ring_(ring),
        indirect_((setting.features & kFeatureIndirectDesc) != 0),
        driver_(Kind::driver(ring, setting.features, first_index)),
        device_(Kind::device(ring, setting.features, first_index)) {}

  void add_chains() {
    for (auto count = random(0, 5); count > 0; --count) {
      const bool in_table = indirect_ && random(0, 1) == 1;
      const std::vector<DriverSegment> segments =
          random_segments(in_table ? random(1, kTableEntries)
                                   : random(1, std::min<std::size_t>(driver_.size(), 40)));
      const auto head = in_table ? add_table(segments) : driver_.add(segments);
      if (!head) {
        EXPECT_EQ(head.error().kind, ErrorKind::kBusy);
        break;
      }
      EXPECT_TRUE(submitted_.emplace(*head, segments).second) << "head in use";
      order_.push_back(*head);
    }
    const auto kick = driver_.publish();
    ASSERT_TRUE(kick.has_value());
    kicked_ = kicked_ || *kick;
  }

  /// The device sleeps until a kick: a lost kick stops the ring.
  void pop_chains() {
    if (!kicked_ && asleep_) return;
    kicked_ = asleep_ = false;
    for (auto count = random(1, 8); count > 0; --count) {
      const auto popped = device_.pop(ring_.memory(), chains_.emplace_back());
      ASSERT_TRUE(popped.has_value()) << popped.error().to_string();
      if (*popped != PopResult::kChain) {  // nothing, or no room for long ones
        chains_.pop_back();
        break;
      }
      check_popped(chains_.back());
    }
    const auto more = device_.enable_notifications();
    ASSERT_TRUE(more.has_value());
    asleep_ = !*more;
  }

  void return_chains() {
    for (auto count = random(0, chains_.size()); count > 0; --count) {
      std::swap(in_progress_[random(0, in_progress_.size() - 1)], in_progress_.back());
      const std::uint16_t head = in_progress_.back();
      in_progress_.pop_back();
      const auto written = static_cast<std::uint32_t>(random(0, 1 << 20));
      ASSERT_TRUE(device_.push_used(head, written).has_value());
      EXPECT_TRUE(returned_.emplace(head, written).second);
      chains_.pop_front();
    }
    const auto call = device_.publish();
    ASSERT_TRUE(call.has_value());
    called_ = called_ || *call;
  }

  /// The driver sleeps until a call.
  void reap_chains() {
    if (!called_ && driver_asleep_) return;
    called_ = false;
    auto used = driver_.reap();
    for (; used && *used; used = driver_.reap()) {
      const auto expected = returned_.find((*used)->head);
      ASSERT_NE(expected, returned_.end()) << "reaped but not returned";
      EXPECT_EQ((*used)->written, expected->second);
      returned_.erase(expected);
      submitted_.erase((*used)->head);
      ++finished_;
    }
    ASSERT_TRUE(used.has_value()) << used.error().to_string();
    const auto more = driver_.enable_calls();
    ASSERT_TRUE(more.has_value());
    driver_asleep_ = !*more;
  }

  [[nodiscard]] std::size_t finished() const { return finished_; }
  [[nodiscard]] bool is_idle() const {
    return submitted_.empty() && driver_.in_flight() == 0 && device_.in_flight() == 0 &&
           driver_.free_descriptors() == driver_.size();
  }

 private:
  static constexpr std::uint32_t kTableEntries = 200;

  std::size_t random(std::size_t low, std::size_t high) {
    return std::uniform_int_distribution<std::size_t>(low, high)(engine_);
  }

  std::vector<DriverSegment> random_segments(std::size_t count) {
    const std::size_t readable = random(0, count);
    std::vector<DriverSegment> segments;
    segments.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
      segments.push_back({RingForTest::kData.plus_unchecked(random(0, 1 << 20)),
                          static_cast<std::uint32_t>(random(1, 5000)),
                          i < readable ? Direction::kReadable : Direction::kWritable});
    }
    return segments;
  }

  /// Longer than short rings.
  Result<std::uint16_t> add_table(const std::vector<DriverSegment>& segments) {
    // More tables than chains available at once.
    const Gpa table = RingForTest::kData.plus_unchecked((std::uint64_t{2} << 20) +
                                                        tables_++ % 1024 * kTableEntries * 16);
    return driver_.add_indirect(
        segments, {reinterpret_cast<Descriptor*>(ring_.at(table)), table, kTableEntries});
  }

  void check_popped(const Chain& chain) {
    ASSERT_FALSE(order_.empty()) << "more popped than added";
    EXPECT_EQ(chain.head(), order_.front()) << "chains are popped in order";
    order_.pop_front();
    in_progress_.push_back(chain.head());
    const std::vector<DriverSegment>& sent = submitted_.at(chain.head());
    ASSERT_FALSE(chain.is_malformed()) << chain.fault().to_string();
    ASSERT_EQ(chain.extents().size(), sent.size());
    for (std::size_t i = 0; i < sent.size(); ++i) {
      EXPECT_EQ(chain.extents()[i].start(), sent[i].address);
      EXPECT_EQ(chain.extents()[i].length(), sent[i].length);
      EXPECT_EQ(i < chain.readable().size(), sent[i].direction == Direction::kReadable);
    }
  }

  const RingForTest& ring_;
  const bool indirect_;
  Kind::Driver driver_;
  Kind::Device device_;
  std::mt19937_64 engine_{42};
  std::map<std::uint16_t, std::vector<DriverSegment>> submitted_;
  std::deque<std::uint16_t> order_;         // added and not popped
  std::deque<Chain> chains_;                // as many as in progress
  std::vector<std::uint16_t> in_progress_;  // their heads
  std::map<std::uint16_t, std::uint32_t> returned_;
  std::uint64_t tables_ = 0;
  std::size_t finished_ = 0;
  bool kicked_ = true;
  bool asleep_ = false;
  bool called_ = false;
  bool driver_asleep_ = false;
};

}  // namespace guestio::virtio
