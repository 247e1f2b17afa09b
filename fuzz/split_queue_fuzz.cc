// SPDX-License-Identifier: MIT
// The device's side of a split ring against a driver that writes whatever it likes between any two
// steps, beside a model that reads the same ring in the plainest way.
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
constexpr std::size_t kAvail = 0x1000;  // parts of the ring in it
constexpr std::size_t kUsed = 0x2000;
constexpr std::size_t kTables = 0x3000;  // indirect tables, and room for 1280 entries in them
constexpr std::size_t kTableEntries = (kBytes - kTables) / sizeof(Descriptor);
constexpr std::size_t kMaxEntries = 256;  // of the ring
constexpr std::uint64_t kMaxChainBytes = std::uint64_t{1} << 32;

/// What the model makes of a chain.
struct Walked {
  enum class Kind { kWhole, kMalformed, kNoRoom, kWholeOrMalformed };
  Kind kind = Kind::kMalformed;
  std::vector<AddressRange> extents;
  std::size_t readable = 0;
  bool over_the_end = false;  // of memory: the end of a table
};

class Game {
 public:
  Game(const GuestMemory& memory, std::byte* host, Program& program)
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
    GUESTIO_CHECK(ring.has_value(), "a good ring");
    auto queue = SplitDeviceRing::create(*ring, features_, next_avail_);
    GUESTIO_CHECK(queue.has_value(), "a queue");
    queue_.emplace(std::move(*queue));
  }
  Game(const Game&) = delete;
  Game& operator=(const Game&) = delete;

  void play() {
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
    const std::size_t places[] = {kAvail,
                                  kAvail + 2,
                                  kUsed,
                                  kUsed + 2,
                                  kAvail + 4 + 2 * size_,
                                  kAvail + 4 + 2 * program_.index(kMaxEntries)};
    put(places[program_.index(6)], program_.take<std::uint16_t>());
  }
  [[nodiscard]] std::size_t descriptor_place() {
    const std::size_t index = program_.index(kMaxEntries);
    return (program_.flag() ? kTables : 0) + index * sizeof(Descriptor);
  }
  void poke_descriptor() {
    const std::size_t at = descriptor_place();
    Descriptor descriptor{};
    const auto kind = program_.take<std::uint8_t>();
    descriptor.flags = kind & 7;
    switch (kind >> 6) {
      case 0:  // an indirect table, perhaps over the end of memory
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
  /// A row of descriptors in which each leads to the next.
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

  // The device, step by step beside the model.

  /// Whether something is available, as a queue knows that may remember an older index; nothing
  /// when the index makes no sense.
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

  /// Follows a chain from its head in the plainest way.
  [[nodiscard]] Walked walk(std::uint16_t head) const {
    Walked result;
    std::size_t table = 0;
    std::uint64_t entries = size_;
    bool indirect = false;
    std::uint64_t index = head;
    std::uint64_t total = 0;
    std::uint64_t most = size_;
    for (std::size_t fetched = 0; fetched < most; ++fetched) {
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
        // Longer than the queue, but not without a limit.
        most = std::min(fetched + entries, std::uint64_t{virtio::kMaxChainDescriptors});
        // The driver promises the whole table: one that leaves memory may be refused before its
        // end.
        result.over_the_end = table + descriptor.length > kBytes;
        index = 0;
        --fetched;  // the descriptor of a table is not one of the chain's
        continue;
      }
      if (descriptor.length != 0) {
        const bool writable = (descriptor.flags & virtio::kDescriptorWrite) != 0;
        total += descriptor.length;
        const auto range =
            AddressRange::from_start_and_length(Gpa(descriptor.address), descriptor.length);
        const bool behind_writable = !writable && result.extents.size() > result.readable;
        if (behind_writable || !range || total > kMaxChainBytes) return result;
        if (result.extents.size() == virtio::ExtentArena::kMediumExtents &&
            long_chains() == virtio::ExtentArena::kHugeBlocks) {
          result.kind = Walked::Kind::kNoRoom;
          return result;
        }
        result.extents.push_back(*range);
        if (!writable) result.readable = result.extents.size();
      }
      if ((descriptor.flags & virtio::kDescriptorNext) == 0) {
        result.kind = result.over_the_end ? Walked::Kind::kWholeOrMalformed : Walked::Kind::kWhole;
        return result;
      }
      index = descriptor.next;
    }
    return result;
  }

  /// The last writable byte of a malformed chain, in the plainest way; nothing where none is, or
  /// the end is not certain.
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
          fetched = ~std::uint64_t{0};  // none of the table's
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
      GUESTIO_CHECK(!popped.has_value(), "an error for a ring that makes no sense");
      GUESTIO_CHECK(popped.error().kind == ErrorKind::kPeerFault, "a peer fault");
      return;
    }
    GUESTIO_CHECK(popped.has_value(), "an answer from a ring that makes sense");
    const Walked expected = walk(head);
    if (*popped == PopResult::kNoRoom) {
      GUESTIO_CHECK(expected.kind == Walked::Kind::kNoRoom, "no room where there is none");
      return;
    }
    GUESTIO_CHECK(*popped == PopResult::kChain && chain->head() == head, "the chain");
    check_chain(*chain, expected);
    if (chain->is_malformed()) check_last_writable(*chain, expected, last_writable(head));
    ++next_avail_;
    chains_.push_back(std::move(chain));
  }

  static void check_last_writable(const Chain& chain, const Walked& expected,
                                  std::optional<std::uint64_t> last) {
    // Of a table that leaves memory less may be seen.
    if (expected.over_the_end && !chain.last_writable()) return;
    GUESTIO_CHECK(chain.last_writable().has_value() == last.has_value(), "a status or none");
    if (last) GUESTIO_CHECK(chain.last_writable()->raw() == *last, "the model's status");
  }

  static void check_chain(const Chain& chain, const Walked& expected) {
    if (expected.kind == Walked::Kind::kMalformed) {
      GUESTIO_CHECK(chain.is_malformed(), "a malformed chain");
    } else if (expected.kind == Walked::Kind::kWhole) {
      GUESTIO_CHECK(!chain.is_malformed(), "a whole chain");
    }
    GUESTIO_CHECK(expected.kind != Walked::Kind::kNoRoom, "no room");
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
                  "the used entry behind the others");
    ++pushed_;
    chains_.erase(chosen);
  }

  void publish() {
    const std::uint16_t before = published_;
    const auto asked = queue_->publish();
    GUESTIO_CHECK(asked.has_value(), "to publish");
    if (pushed_ == 0) {
      GUESTIO_CHECK(!*asked, "no call for nothing");
      return;
    }
    published_ = static_cast<std::uint16_t>(published_ + pushed_);
    pushed_ = 0;
    GUESTIO_CHECK(get<std::uint16_t>(kUsed + 2) == published_, "the used index");
    bool wanted = forced_;
    forced_ = false;
    if ((features_ & virtio::kFeatureEventIdx) != 0) {
      const auto event = get<std::uint16_t>(kAvail + 4 + 2 * size_);
      for (std::uint16_t index = before; index != published_; ++index) wanted |= index == event;
    } else {
      wanted |= (get<std::uint16_t>(kAvail) & virtio::kAvailNoInterrupt) == 0;
    }
    GUESTIO_CHECK(*asked == wanted, "a call when the driver wants one");
  }

  void notifications() {
    const bool by_event = (features_ & virtio::kFeatureEventIdx) != 0;
    if (program_.flag()) {
      GUESTIO_CHECK(queue_->suppress_notifications().has_value(), "to disable notifications");
      if (!by_event) GUESTIO_CHECK(get<std::uint16_t>(kUsed) == virtio::kUsedNoNotify, "the flag");
      return;
    }
    const auto available = queue_->enable_notifications();
    const auto wish = get<std::uint16_t>(by_event ? kUsed + 4 + 8 * size_ : kUsed);
    GUESTIO_CHECK(wish == (by_event ? next_avail_ : 0), "the wish for kicks");
    const auto expected = is_available(true);
    GUESTIO_CHECK(available.has_value() == expected.has_value(), "an error for a bad index only");
    if (expected) GUESTIO_CHECK(*available == *expected, "what came before the kicks");
  }

  void check() const {
    GUESTIO_CHECK(queue_->in_flight() == chains_.size(), "the model's chains in flight");
    GUESTIO_CHECK(chains_.size() + pushed_ <= size_, "no more chains than the ring holds");
    GUESTIO_CHECK(queue_->next_avail() == next_avail_, "the model's place in the ring");
    GUESTIO_CHECK(queue_->used_index() == published_, "the model's used index");
  }

  const GuestMemory& memory_;
  std::byte* const host_;
  Program& program_;
  const std::uint16_t size_;
  virtio::FeatureBits features_;
  std::optional<SplitDeviceRing> queue_;
  std::vector<std::unique_ptr<Chain>> chains_;  // in flight; behind the queue: they go before it
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
  fuzz::Game(memory, *memory.host_range(Gpa(fuzz::kStart), fuzz::kBytes), program).play();
  return 0;
}
