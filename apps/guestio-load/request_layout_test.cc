// SPDX-License-Identifier: MIT
#include "apps/guestio-load/request_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "guestio/vhost/frontend/frontend_memory.h"

namespace guestio::load {
namespace {

using virtio::Direction;

constexpr std::size_t kHeader = 16;

struct RequestLayoutTest : testing::Test {
  RequestLayout make(const RequestLayout::Limits& limits) {
    return RequestLayout(*memory.allocate(RequestLayout::arena_bytes(70000, limits), 4096), limits);
  }
  [[nodiscard]] std::byte* host(Gpa address) const {
    return memory.whole().host + address.offset_from(memory.whole().gpa);
  }
  /// Acts as the device: reads the readable part, writes 1, 2, 3… to the writable part.
  std::vector<std::byte> serve(const RequestLayout& layout) const {
    std::vector<std::byte> read;
    std::uint8_t next = 1;
    for (const auto& segment : layout.segments()) {
      std::byte* const bytes = host(segment.address);
      if (segment.direction == Direction::kReadable) {
        read.insert(read.end(), bytes, bytes + segment.length);
      } else {
        std::generate_n(bytes, segment.length, [&next] { return std::byte{next++}; });
      }
    }
    return read;
  }
  static std::vector<std::byte> numbered(std::size_t count) {
    std::vector<std::byte> bytes(count);
    std::uint8_t next = 1;
    std::ranges::generate(bytes, [&next] { return std::byte{next++}; });
    return bytes;
  }

  vhost::FrontendMemory memory = *vhost::FrontendMemory::create(std::size_t{8} << 20);
  std::mt19937_64 engine{1};
};

TEST_F(RequestLayoutTest, AnyLayoutPreservesTheBytes) {
  RequestLayout layout = make({.descriptors = 20, .descriptor_bytes = 8192});
  for (int i = 0; i < 2000; ++i) {
    const auto readable = numbered(kHeader + static_cast<std::size_t>(i % 3) * 4096);
    const std::size_t writable = 1 + static_cast<std::size_t>(i % 5) * 8192;
    layout.lay(readable, writable, i % 2 == 0 ? Layout::kAny : Layout::kSimple, engine);
    EXPECT_LE(layout.segments().size(), 20u);
    EXPECT_EQ(serve(layout), readable);
    std::vector<std::byte> written(writable);
    layout.copy_written(written);
    EXPECT_EQ(written, numbered(writable));
    EXPECT_EQ(layout.find_corruption(), std::nullopt);
  }
}

TEST_F(RequestLayoutTest, ReadableSegmentsComeFirstAndNoneIsEmptyOrTooLong) {
  RequestLayout layout = make({.descriptors = 40, .descriptor_bytes = 1000});
  for (int i = 0; i < 500; ++i) {
    layout.lay(numbered(kHeader + 8192), 16384 + 1, Layout::kAny, engine);
    const auto segments = layout.segments();
    EXPECT_TRUE(std::ranges::is_sorted(segments, {}, [](const auto& segment) {
      return segment.direction == Direction::kWritable;
    }));
    for (const auto& segment : segments) {
      EXPECT_GT(segment.length, 0u);
      EXPECT_LE(segment.length, 1000u);
    }
  }
}

TEST_F(RequestLayoutTest, SimpleLayoutsHaveSeparateHeaderAndStatusAndAlignedSectors) {
  RequestLayout layout = make({.descriptors = 10});
  for (int i = 0; i < 500; ++i) {
    layout.lay(numbered(kHeader), 8192 + 1, Layout::kSimple, engine);
    const auto segments = layout.segments();
    EXPECT_EQ(segments.front().length, kHeader);
    EXPECT_EQ(segments.back().length, 1u);
    for (const auto& data : segments.subspan(1, segments.size() - 2)) {
      EXPECT_EQ(data.length % 512, 0u);
      EXPECT_TRUE(data.address.is_aligned_to(512));
    }
  }
}

TEST_F(RequestLayoutTest, AnyLayoutSplitsAndMergesHeaderAndStatus) {
  RequestLayout layout = make({.descriptors = 10});
  std::set<std::size_t> first_lengths;
  std::set<std::size_t> last_lengths;
  for (int i = 0; i < 2000; ++i) {
    layout.lay(numbered(kHeader + 512), 512 + 1, Layout::kAny, engine);
    first_lengths.insert(layout.segments().front().length);
    last_lengths.insert(layout.segments().back().length);
  }
  EXPECT_TRUE(first_lengths.contains(kHeader + 512)) << "all in one descriptor";
  EXPECT_LT(*first_lengths.begin(), kHeader) << "a part of the header";
  EXPECT_TRUE(last_lengths.contains(512 + 1)) << "status at the end of the data";
  EXPECT_TRUE(last_lengths.contains(1)) << "status alone";
}

TEST_F(RequestLayoutTest, TheMinimumOfDescriptorsSuffices) {
  RequestLayout any = make({.descriptors = 2});
  any.lay(numbered(kHeader + 512), 1, Layout::kAny, engine);
  EXPECT_EQ(any.segments().size(), 2u);
  RequestLayout simple = make({.descriptors = 3});
  simple.lay(numbered(kHeader + 512), 1, Layout::kSimple, engine);
  EXPECT_EQ(simple.segments().size(), 3u);
}

TEST_F(RequestLayoutTest, FindsChangedBytesOutsideTheWritableDescriptors) {
  RequestLayout layout = make({.descriptors = 8});
  for (int i = 0; i < 200; ++i) {
    layout.lay(numbered(kHeader + 512), 513, Layout::kAny, engine);
    serve(layout);
    const auto segments = layout.segments();
    const auto& segment = segments[static_cast<std::size_t>(i) % segments.size()];
    // After a segment, or in a readable one.
    const std::uint64_t where =
        segment.direction == Direction::kReadable && i % 2 == 0 ? 0 : segment.length;
    std::byte* const victim = host(segment.address) + where;
    *victim ^= std::byte{0x40};
    EXPECT_TRUE(layout.find_corruption().has_value());
    *victim ^= std::byte{0x40};
    EXPECT_FALSE(layout.find_corruption().has_value());
  }
}

}  // namespace
}  // namespace guestio::load
