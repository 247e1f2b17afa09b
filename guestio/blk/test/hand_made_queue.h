// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "guestio/base/check.h"
#include "guestio/virtio/blk_layout.h"
#include "guestio/virtio/device.h"

namespace guestio::blk::test {

/// A queue with hand-made chains of a test.
class HandMadeQueue final : public virtio::DeviceQueue {
 public:
  struct Extent {
    Gpa start;
    std::uint32_t length;
    virtio::Direction direction;
  };
  struct Used {
    std::uint16_t head;
    std::uint32_t written;
  };

  explicit HandMadeQueue(mem::GuestMemory memory) : epoch_{std::move(memory), 0} {}

  void add(std::vector<Extent> extents) { chains_.push_back(std::move(extents)); }

  virtio::PopResult pop(virtio::PoppedChain& taken) noexcept override {
    if (next_ == chains_.size()) return virtio::PopResult::kNothing;
    taken.chain.begin(static_cast<std::uint16_t>(next_), arena_);
    for (const Extent& extent : chains_[next_]) {
      const auto appended = taken.chain.append(extent.start, extent.length, extent.direction);
      GUESTIO_CHECK(appended == virtio::Chain::Append::kDone, "a chain that makes sense");
    }
    ++next_;
    taken.epoch = &epoch_;
    return virtio::PopResult::kChain;
  }
  void complete(virtio::PoppedChain& taken, std::uint32_t written) noexcept override {
    used.push_back({taken.chain.head(), written});
    taken.chain.clear();
  }
  void break_on(virtio::PoppedChain& taken, const Error&) noexcept override {
    abandoned.push_back(taken.chain.head());
    taken.chain.clear();
  }
  void abandon(virtio::PoppedChain& taken) noexcept override {
    left.push_back(taken.chain.head());
    taken.chain.clear();
  }
  virtio::FeatureBits features() const noexcept override { return negotiated; }

  virtio::FeatureBits negotiated =
      virtio::kFeatureVersion1 | virtio::blk::kFeatureBlockSize | virtio::blk::kFeatureFlush;
  std::vector<Used> used;
  std::vector<std::uint16_t> abandoned;
  std::vector<std::uint16_t> left;

 private:
  virtio::ExtentArena arena_{256};
  virtio::MemoryEpoch epoch_;
  std::vector<std::vector<Extent>> chains_;
  std::size_t next_ = 0;
};

}  // namespace guestio::blk::test
