// SPDX-License-Identifier: MIT
// The device side of a split ring against a driver that writes random values between any two steps,
// compared with a simple model of the same ring.
#include <memory>
#include <optional>

#include "fuzz/program.h"
#include "guestio/base/check.h"
#include "guestio/mem/guest_memory.h"
#include "guestio/virtio/chain.h"
#include "guestio/virtio/extent_arena.h"
#include "guestio/virtio/layout.h"
#include "guestio/virtio/split_device_ring.h"
#include "guestio/virtio/split_ring.h"

namespace guestio::fuzz {
namespace {

using mem::AddressRange;
using mem::GuestMemory;
using virtio::Chain;
using virtio::Descriptor;
using virtio::PopResult;
using virtio::SplitDeviceRing;
using virtio::SplitRing;

constexpr std::uint64_t kStart = 0x10000;  // of guest memory
constexpr std::size_t kBytes = 0x8000;
constexpr std::size_t kAvail = 0x1000;  // parts of the ring
constexpr std::size_t kUsed = 0x2000;
constexpr std::size_t kTables = 0x3000;  // indirect tables, 1280 entries
constexpr std::size_t kTableEntries = (kBytes - kTables) / sizeof(Descriptor);
constexpr std::size_t kMaxEntries = 256;  // of the ring
constexpr std::uint64_t kMaxChainBytes = std::uint64_t{1} << 32;

/// The chain as the model sees it.
struct ExpectedChain {
  enum class Kind { kComplete, kMalformed, kNoRoom, kCompleteOrMalformed };
  Kind kind = Kind::kMalformed;
  std::vector<AddressRange> extents;
  std::size_t readable = 0;
  bool leaves_memory = false;  // the end of a table
};

class RingModel {
 public:
  RingModel(const GuestMemory& memory, std::byte* host, Program& program)
      : memory_(memory),
        host_(host),
        program_(program),
        size_(static_cast<std::uint16_t>(1 << program.index(9))),
        features_(program.flag() ? virtio::kFeatureIndirectDesc : 0),
        next_avail_(program.take<std::uint16_t>()) {
    if (program.flag()) features_ |= virtio::kFeatureEventIdx;
    std::memset(host_, 0, kBytes);
    published_ = program.take<std::uint16_t>();
    put<std::uint16_t>(kUsed + 2, published_);
    put<std::uint16_t>(kAvail + 2, next_avail_);
    seen_ = next_avail_;
    const auto ring = SplitRing::at(host_, host_ + kAvail, host_ + kUsed, size_);
    GUESTIO_CHECK(ring.has_value(), "a valid ring");
    auto queue = SplitDeviceRing::create(*ring, features_, next_avail_);
    GUESTIO_CHECK(queue.has_value(), "a queue");
    queue_.emplace(std::move(*queue));
  }
  RingModel(const RingModel&) = delete;
  RingModel& operator=(const RingModel&) = delete;

  void run() {
    for (std::size_t step = 0; step < 512 && !program_.is_over(); ++step) {
      const auto operation = program_.take<std::uint8_t>();
      switch (operation % 16) {
        case 0: poke_bytes(); break;
        case 1: poke_word(); break;
        case 2:
        case 3:
        case 4: poke_descriptor(); break;
        case 5: link_descriptors(); break;
        case 6:
        case 7: make_available(); break;
        case 8:
        case 9:
        case 10: pop(); break;
        case 11:
        case 12: push(); break;
        case 13: publish(); break;
        case 14: notifications(); break;
        default: queue_->force_next_call(); forced_ = true;
      }
      check();
    }
    while (!chains_.empty()) push();
    publish();
  }

 private:
  template <typename T>
  [[nodiscard]] T get(std::size_t at) const {
    T value;
    std::memcpy(&value, host_ + at, sizeof(T));
    return value;
  }
  template <typename T>
  void put(std::size_t at, T value) {
    std::memcpy(host_ + at, &value, sizeof(T));
  }

  // The driver.

  void poke_bytes() {
    const std::size_t at = program_.take<std::uint16_t>() % kBytes;
    const auto bytes =
        program_.bytes(std::min<std::size_t>(program_.take<std::uint8_t>(), kBytes - at));
    if (!bytes.empty()) std::memcpy(host_ + at, bytes.data(), bytes.size());
  }
  /// One of the ring's own words: flags, indices, events, heads.
  void poke_word() {
    const std::size_t words[] = {kAvail,
                                 kAvail + 2,
                                 kUsed,
                                 kUsed + 2,
                                 kAvail + 4 + 2 * size_,
                                 kAvail + 4 + 2 * program_.index(kMaxEntries)};
    put(words[program_.index(6)], program_.take<std::uint16_t>());
  }
  [[nodiscard]] std::size_t descriptor_offset() {
    const std::size_t index = program_.index(kMaxEntries);
    return (program_.flag() ? kTables : 0) + index * sizeof(Descriptor);
  }
  void poke_descriptor() {
    const std::size_t at = descriptor_offset();
    Descriptor descriptor{};
    const auto kind = program_.take<std::uint8_t>();
    descriptor.flags = kind & 7;
    switch (kind >> 6) {
      case 0:  // an indirect table, perhaps beyond the end of memory
        descriptor.address = kStart + kTables + program_.index(2 * kMaxEntries) * 64;
        descriptor.length = std::uint32_t{program_.take<std::uint16_t>()} / 16 * 16;
        break;
      case 1:
        descriptor.address = program_.take<std::uint64_t>();
        descriptor.length = program_.take<std::uint32_t>();
        break;
      case 2:
        descriptor.address = 0 - std::uint64_t{program_.take<std::uint8_t>()};
        descriptor.length = program_.take<std::uint8_t>();
        break;
      default:
        descriptor.address = kStart + program_.take<std::uint16_t>();
        descriptor.length = program_.take<std::uint8_t>();
    }
    descriptor.next = program_.take<std::uint8_t>();
    put(at, descriptor);
  }
  /// A list of linked descriptors.
  void link_descriptors() {
    const std::size_t table = program_.flag() ? kTables : 0;
    const std::size_t entries = table == 0 ? kMaxEntries : kTableEntries;
    const std::size_t first = program_.index(kMaxEntries);
    const std::size_t last =
        std::min(first + program_.take<std::uint16_t>() % entries, entries - 1);
    for (std::size_t i = first; i <= last; ++i) {
      auto descriptor = get<Descriptor>(table + i * sizeof(Descriptor));
      if (descriptor.length == 0) descriptor = {kStart, 1, descriptor.flags, 0};
      descriptor.flags = i == last ? 0 : virtio::kDescriptorNext;
      descriptor.next = static_cast<std::uint16_t>(i + 1);
      put(table + i * sizeof(Descriptor), descriptor);
    }
  }
  void make_available() {
    const auto index = get<std::uint16_t>(kAvail + 2);
    put(kAvail + 4 + 2 * (index % size_), std::uint16_t{program_.take<std::uint8_t>()});
    put(kAvail + 2, static_cast<std::uint16_t>(index + 1));
  }

  // The device, step by step, and the model.

  /// Whether a chain is available, to a ring with a cached index; nothing if the index is invalid.
  std::optional<bool> is_available(bool recheck) {
    if (!recheck && seen_ != next_avail_) return true;
    const auto index = get<std::uint16_t>(kAvail + 2);
    if (static_cast<std::uint16_t>(index - next_avail_) > size_) return std::nullopt;
    seen_ = index;
    return seen_ != next_avail_;
  }

  [[nodiscard]] std::size_t long_chains() const {
    return static_cast<std::size_t>(std::ranges::count_if(chains_, [](const auto& chain) {
      return chain->extents().size() > virtio::ExtentArena::kMediumExtents;
    }));
  }

  /// Walks a chain from its head.
  [[nodiscard]] ExpectedChain walk(std::uint16_t head) const {
    ExpectedChain result;
    std::size_t table = 0;
    std::uint64_t entries = size_;
    bool indirect = false;
    std::uint64_t index = head;
    std::uint64_t total = 0;
    std::uint64_t limit = size_;
    for (std::size_t fetched = 0; fetched < limit; ++fetched) {
      if (index >= entries) return result;
      const std::uint64_t at = table + index * sizeof(Descriptor);
      if (at + sizeof(Descriptor) > kBytes) return result;
      const auto descriptor = get<Descriptor>(at);
      if ((descriptor.flags & virtio::kDescriptorIndirect) != 0) {
        const bool allowed = (features_ & virtio::kFeatureIndirectDesc) != 0 && !indirect &&
                             (descriptor.flags & virtio::kDescriptorNext) == 0 &&
                             descriptor.length != 0 && descriptor.length % 16 == 0;
        if (!allowed || descriptor.address < kStart || descriptor.address - kStart >= kBytes) {
          return result;
        }
        indirect = true;
        table = descriptor.address - kStart;
        entries = descriptor.length / 16;
        // Longer than the ring, up to the limit.
        limit = std::min(fetched + entries, std::uint64_t{virtio::kMaxChainDescriptors});
        // A table beyond the end of memory may be refused before its last entry.
        result.leaves_memory = table + descriptor.length > kBytes;
        index = 0;
        --fetched;  // the descriptor of a table does not count
        continue;
      }
      if (descriptor.length != 0) {
        const bool writable = (descriptor.flags & virtio::kDescriptorWrite) != 0;
        total += descriptor.length;
        const auto range =
            AddressRange::from_start_and_length(Gpa(descriptor.address), descriptor.length);
        const bool after_writable = !writable && result.extents.size() > result.readable;
        if (after_writable || !range || total > kMaxChainBytes) return result;
        if (result.extents.size() == virtio::ExtentArena::kMediumExtents &&
            long_chains() == virtio::ExtentArena::kHugeBlocks) {
          result.kind = ExpectedChain::Kind::kNoRoom;
          return result;
        }
        result.extents.push_back(*range);
        if (!writable) result.readable = result.extents.size();
      }
      if ((descriptor.flags & virtio::kDescriptorNext) == 0) {
        result.kind = result.leaves_memory ? ExpectedChain::Kind::kCompleteOrMalformed
                                           : ExpectedChain::Kind::kComplete;
        return result;
      }
      index = descriptor.next;
    }
    return result;
  }

  /// The last writable byte of a malformed chain; nothing if there is none, or the end is
  /// uncertain.
  [[nodiscard]] std::optional<std::uint64_t> last_writable(std::uint16_t head) const {
    std::optional<std::uint64_t> last;
    std::size_t table = 0;
    std::uint64_t entries = size_;
    bool indirect = false;
    std::uint64_t index = head;
    for (std::uint64_t fetched = 0; fetched < entries; ++fetched) {
      const std::uint64_t at = table + index * sizeof(Descriptor);
      if (index >= entries || at + sizeof(Descriptor) > kBytes) return std::nullopt;
      const auto descriptor = get<Descriptor>(at);
      const bool has_next = (descriptor.flags & virtio::kDescriptorNext) != 0;
      if ((descriptor.flags & virtio::kDescriptorIndirect) != 0) {
        if (!indirect && !has_next && (features_ & virtio::kFeatureIndirectDesc) != 0) {
          if (descriptor.address < kStart || descriptor.address - kStart >= kBytes) return {};
          indirect = true;
          table = descriptor.address - kStart;
          entries = descriptor.length / 16;
          index = 0;
          fetched = ~std::uint64_t{0};  // none of the table yet
          continue;
        }
        last.reset();
      } else if (descriptor.length != 0 && (descriptor.flags & virtio::kDescriptorWrite) != 0) {
        const std::uint64_t end = descriptor.address + (descriptor.length - 1);
        last = end < descriptor.address ? std::nullopt : std::optional(end);
      }
      if (!has_next) return last;
      index = descriptor.next;
    }
    return std::nullopt;
  }

  void pop() {
    auto chain = std::make_unique<Chain>();
    const auto available = is_available(false);
    const auto popped = queue_->pop(memory_, *chain);
    if (available && !*available) {
      GUESTIO_CHECK(popped.has_value() && *popped == PopResult::kNothing, "nothing");
      return;
    }
    const bool full = chains_.size() + pushed_ >= size_;
    const auto head = get<std::uint16_t>(kAvail + 4 + 2 * (next_avail_ % size_));
    if (!available || full || head >= size_) {
      GUESTIO_CHECK(!popped.has_value(), "an error for a malformed ring");
      GUESTIO_CHECK(popped.error().kind == ErrorKind::kPeerFault, "a peer fault");
      return;
    }
    GUESTIO_CHECK(popped.has_value(), "a chain from a valid ring");
    const ExpectedChain expected = walk(head);
    if (*popped == PopResult::kNoRoom) {
      GUESTIO_CHECK(expected.kind == ExpectedChain::Kind::kNoRoom, "no room, as in the model");
      return;
    }
    GUESTIO_CHECK(*popped == PopResult::kChain && chain->head() == head, "the chain");
    check_chain(*chain, expected);
    if (chain->is_malformed()) check_last_writable(*chain, expected, last_writable(head));
    ++next_avail_;
    chains_.push_back(std::move(chain));
  }

  static void check_last_writable(const Chain& chain, const ExpectedChain& expected,
                                  std::optional<std::uint64_t> last) {
    // A table beyond the end of memory may be cut short.
    if (expected.leaves_memory && !chain.last_writable()) return;
    GUESTIO_CHECK(chain.last_writable().has_value() == last.has_value(), "a status or none");
    if (last) GUESTIO_CHECK(chain.last_writable()->raw() == *last, "the model's status");
  }

  static void check_chain(const Chain& chain, const ExpectedChain& expected) {
    if (expected.kind == ExpectedChain::Kind::kMalformed) {
      GUESTIO_CHECK(chain.is_malformed(), "a malformed chain");
    } else if (expected.kind == ExpectedChain::Kind::kComplete) {
      GUESTIO_CHECK(!chain.is_malformed(), "a complete chain");
    }
    GUESTIO_CHECK(expected.kind != ExpectedChain::Kind::kNoRoom, "no room");
    if (chain.is_malformed()) {
      GUESTIO_CHECK(
          chain.extents().empty() && chain.readable_length() == 0 && chain.writable_length() == 0,
          "a malformed chain without extents");
      return;
    }
    GUESTIO_CHECK(std::ranges::equal(chain.extents(), expected.extents), "the model's extents");
    GUESTIO_CHECK(chain.readable().size() == expected.readable, "the model's readable extents");
    std::uint64_t lengths[2] = {};
    for (const AddressRange& extent : chain.readable()) lengths[0] += extent.length();
    for (const AddressRange& extent : chain.writable()) lengths[1] += extent.length();
    GUESTIO_CHECK(chain.readable_length() == lengths[0] && chain.writable_length() == lengths[1],
                  "lengths that add up");
  }

  void push() {
    if (chains_.empty()) return;
    const auto chosen =
        chains_.begin() + static_cast<std::ptrdiff_t>(program_.index(chains_.size()));
    const std::uint16_t head = (*chosen)->head();
    const auto written = program_.take<std::uint32_t>();
    GUESTIO_CHECK(queue_->push_used(head, written).has_value(), "a used entry");
    const std::size_t at = kUsed + 4 + std::size_t{8} * ((published_ + pushed_) % size_);
    GUESTIO_CHECK(get<std::uint32_t>(at) == head && get<std::uint32_t>(at + 4) == written,
                  "the used entry after the others");
    ++pushed_;
    chains_.erase(chosen);
  }

  void publish() {
    const std::uint16_t before = published_;
    const auto needs_call = queue_->publish();
    GUESTIO_CHECK(needs_call.has_value(), "to publish");
    if (pushed_ == 0) {
      GUESTIO_CHECK(!*needs_call, "no call for nothing");
      return;
    }
    published_ = static_cast<std::uint16_t>(published_ + pushed_);
    pushed_ = 0;
    GUESTIO_CHECK(get<std::uint16_t>(kUsed + 2) == published_, "the used index");
    bool expected_call = forced_;
    forced_ = false;
    if ((features_ & virtio::kFeatureEventIdx) != 0) {
      const auto event = get<std::uint16_t>(kAvail + 4 + 2 * size_);
      for (std::uint16_t index = before; index != published_; ++index)
        expected_call |= index == event;
    } else {
      expected_call |= (get<std::uint16_t>(kAvail) & virtio::kAvailNoInterrupt) == 0;
    }
    GUESTIO_CHECK(*needs_call == expected_call, "a call if the driver needs one");
  }

  void notifications() {
    const bool by_event = (features_ & virtio::kFeatureEventIdx) != 0;
    if (program_.flag()) {
      GUESTIO_CHECK(queue_->suppress_notifications().has_value(), "to suppress notifications");
      if (!by_event) GUESTIO_CHECK(get<std::uint16_t>(kUsed) == virtio::kUsedNoNotify, "the flag");
      return;
    }
    const auto available = queue_->enable_notifications();
    const auto event = get<std::uint16_t>(by_event ? kUsed + 4 + 8 * size_ : kUsed);
    GUESTIO_CHECK(event == (by_event ? next_avail_ : 0), "the event for kicks");
    const auto expected = is_available(true);
    GUESTIO_CHECK(available.has_value() == expected.has_value(),
                  "an error for an invalid index only");
    if (expected) GUESTIO_CHECK(*available == *expected, "chains before the kicks");
  }

  void check() const {
    GUESTIO_CHECK(queue_->in_flight() == chains_.size(), "the model's chains in flight");
    GUESTIO_CHECK(chains_.size() + pushed_ <= size_, "no more chains than the ring holds");
    GUESTIO_CHECK(queue_->next_avail() == next_avail_, "the model's available index");
    GUESTIO_CHECK(queue_->used_index() == published_, "the model's used index");
  }

  const GuestMemory& memory_;
  std::byte* const host_;
  Program& program_;
  const std::uint16_t size_;
  virtio::FeatureBits features_;
  std::optional<SplitDeviceRing> queue_;
  std::vector<std::unique_ptr<Chain>> chains_;  // in flight; end before the ring
  std::uint16_t next_avail_;
  std::uint16_t seen_ = 0;
  std::uint16_t published_ = 0;
  std::uint16_t pushed_ = 0;
  bool forced_ = false;
};

}  // namespace
}  // namespace guestio::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace guestio;
  static const mem::GuestMemory memory =
      *mem::GuestMemory::allocate(ByteCount(fuzz::kBytes), Gpa(fuzz::kStart));
  fuzz::Program program(data, size);
  fuzz::RingModel(memory, *memory.host_range(Gpa(fuzz::kStart), fuzz::kBytes), program).run();
  return 0;
}
