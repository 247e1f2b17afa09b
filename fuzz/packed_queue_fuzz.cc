// SPDX-License-Identifier: MIT
// The device side of a packed ring against a driver that writes random values between any two
// steps, compared with a simple model of the same ring.
#include <memory>
#include <optional>
#include <utility>

#include "fuzz/program.h"
#include "guestio/base/check.h"
#include "guestio/mem/guest_memory.h"
#include "guestio/virtio/chain.h"
#include "guestio/virtio/extent_arena.h"
#include "guestio/virtio/packed_device_ring.h"
#include "guestio/virtio/packed_ring.h"

namespace guestio::fuzz {
namespace {

using mem::AddressRange;
using mem::GuestMemory;
using virtio::Chain;
using virtio::PackedDescriptor;
using virtio::PackedDeviceRing;
using virtio::PackedPosition;
using virtio::PackedRing;
using virtio::PopResult;

constexpr std::uint64_t kStart = 0x10000;  // of guest memory
constexpr std::size_t kBytes = 0x8000;
constexpr std::size_t kDriverEvent = 0x1000;  // parts of the ring
constexpr std::size_t kDeviceEvent = 0x1800;
constexpr std::size_t kTables = 0x2000;  // indirect tables
constexpr std::size_t kTableEntries = (kBytes - kTables) / 16;
constexpr std::size_t kMaxEntries = 256;  // of the ring
constexpr std::uint64_t kMaxChainBytes = std::uint64_t{1} << 32;

/// A position as the number of all entries so far.
struct ModelPosition {
  std::uint64_t count;
  std::uint16_t size;

  [[nodiscard]] std::size_t index() const { return count % size; }
  [[nodiscard]] bool wrap() const { return count / size % 2 == 0; }
  [[nodiscard]] std::uint16_t word() const {
    return static_cast<std::uint16_t>(index() | (wrap() ? 0x8000 : 0));
  }
};

/// The chain as the model sees it.
struct ExpectedChain {
  enum class Kind { kComplete, kMalformed, kNoRoom, kNoRoomOrMalformed };
  Kind kind = Kind::kMalformed;
  std::vector<AddressRange> extents;
  std::size_t readable = 0;
};

class RingModel {
 public:
  RingModel(const GuestMemory& memory, std::byte* host, Program& program)
      : memory_(memory),
        host_(host),
        program_(program),
        size_(static_cast<std::uint16_t>(1 + program.index(kMaxEntries))),
        features_(program.flag() ? virtio::kFeatureIndirectDesc : 0),
        avail_{program.take<std::uint16_t>(), size_},
        used_(avail_),
        driver_(avail_) {
    if (program.flag()) features_ |= virtio::kFeatureEventIdx;
    std::memset(host_, 0, kBytes);
    const auto place = PackedPosition::from_word(avail_.word());
    // Nothing is available in the first lap.
    for (std::uint64_t i = 0; i < size_; ++i) {
      const ModelPosition slot{avail_.count + i, size_};
      put<std::uint16_t>(16 * slot.index() + 14, slot.wrap() ? 0 : 0x8080);
    }
    const auto ring = PackedRing::at(host_, host_ + kDriverEvent, host_ + kDeviceEvent, size_);
    GUESTIO_CHECK(ring.has_value(), "a valid ring");
    auto queue = PackedDeviceRing::create(*ring, features_, {place, place});
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
        case 1: program_.flag() ? poke_event() : fill_table(); break;
        case 2: poke_descriptor(kTables + 16 * program_.index(2 * kMaxEntries)); break;
        case 3: poke_descriptor(16 * program_.index(kMaxEntries)); break;
        case 4:
        case 5:
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
  struct PoppedChain {
    Chain chain;
    std::size_t descriptors = 0;
  };

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
  /// Many equal entries of a table.
  void fill_table() {
    const std::size_t first = program_.index(kTableEntries);
    const std::size_t count = program_.take<std::uint16_t>() % kTableEntries;
    for (std::size_t i = first; i < std::min(first + count, kTableEntries); ++i) {
      put(kTables + 16 * i, PackedDescriptor{kStart, 1, 0, 0});
    }
  }
  void poke_event() {
    put(program_.flag() ? kDriverEvent : kDeviceEvent, program_.take<std::uint32_t>());
  }
  void poke_descriptor(std::size_t at) {
    PackedDescriptor descriptor{};
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
    descriptor.id = program_.take<std::uint8_t>();
    put(at, descriptor);
  }
  /// Descriptors at the driver's position, mostly linked.
  void make_available() {
    for (std::size_t count = program_.index(8); count < 8; ++count) {
      const std::size_t at = 16 * driver_.index();
      poke_descriptor(at);
      auto flags = get<std::uint16_t>(at + 14);
      flags = static_cast<std::uint16_t>(flags | (driver_.wrap() ? 0x80 : 0x8000));
      put(at + 14, flags);
      ++driver_.count;
    }
  }

  // The device, step by step, and the model.

  [[nodiscard]] bool is_available(ModelPosition place) const {
    const int flags = get<std::uint16_t>(16 * place.index() + 14) & 0x8080;
    return flags == (place.wrap() ? 0x80 : 0x8000);
  }

  /// The chain at the device's position; nothing if it does not end.
  [[nodiscard]] std::optional<std::vector<PackedDescriptor>> fetch() const {
    std::vector<PackedDescriptor> descriptors;
    const std::uint64_t in_flight = avail_.count - used_.count;
    for (std::uint64_t i = 0; i < size_ - in_flight; ++i) {
      const ModelPosition place{avail_.count + i, size_};
      descriptors.push_back(get<PackedDescriptor>(16 * place.index()));
      if ((descriptors.back().flags & virtio::kDescriptorNext) == 0) return descriptors;
    }
    return std::nullopt;
  }

  [[nodiscard]] std::size_t long_chains() const {
    return static_cast<std::size_t>(std::ranges::count_if(chains_, [](const auto& popped_chain) {
      return popped_chain->chain.extents().size() > virtio::ExtentArena::kMediumExtents;
    }));
  }

  [[nodiscard]] ExpectedChain walk(std::vector<PackedDescriptor> descriptors) const {
    ExpectedChain result;
    bool leaves_memory = false;
    const PackedDescriptor first = descriptors.front();
    if (descriptors.size() == 1 && (first.flags & virtio::kDescriptorIndirect) != 0) {
      const bool allowed = (features_ & virtio::kFeatureIndirectDesc) != 0 && first.length != 0 &&
                           first.length % 16 == 0 &&
                           first.length / 16 <= virtio::kMaxChainDescriptors;
      if (!allowed || first.address < kStart) return result;
      std::uint64_t at = first.address - kStart;
      descriptors.clear();
      for (std::size_t i = 0; i < first.length / 16; ++i, at += 16) {
        leaves_memory = at > kBytes - 16;
        if (leaves_memory) break;
        descriptors.push_back(get<PackedDescriptor>(at));
      }
    }
    std::uint64_t total = 0;
    for (const PackedDescriptor& descriptor : descriptors) {
      if ((descriptor.flags & virtio::kDescriptorIndirect) != 0) return result;
      if (descriptor.length == 0) continue;
      const bool writable = (descriptor.flags & virtio::kDescriptorWrite) != 0;
      total += descriptor.length;
      const auto range =
          AddressRange::from_start_and_length(Gpa(descriptor.address), descriptor.length);
      const bool after_writable = !writable && result.extents.size() > result.readable;
      if (after_writable || !range || total > kMaxChainBytes) return result;
      if (result.extents.size() == virtio::ExtentArena::kMediumExtents &&
          long_chains() == virtio::ExtentArena::kHugeBlocks) {
        // The device reads ahead in a table, and may see its end first.
        result.kind =
            leaves_memory ? ExpectedChain::Kind::kNoRoomOrMalformed : ExpectedChain::Kind::kNoRoom;
        return result;
      }
      result.extents.push_back(*range);
      if (!writable) result.readable = result.extents.size();
    }
    result.kind = leaves_memory ? ExpectedChain::Kind::kMalformed : ExpectedChain::Kind::kComplete;
    return result;
  }

  /// The last writable byte of a malformed chain; nothing if there is none, or the end is
  /// uncertain.
  [[nodiscard]] std::optional<std::uint64_t> last_writable(
      std::vector<PackedDescriptor> descriptors) const {
    const PackedDescriptor first = descriptors.front();
    const bool is_table = descriptors.size() == 1 &&
                          (first.flags & virtio::kDescriptorIndirect) != 0 &&
                          (features_ & virtio::kFeatureIndirectDesc) != 0;
    if (is_table) {
      if (first.length == 0 || first.length % 16 != 0 || first.address < kStart ||
          first.address - kStart > kBytes || first.address - kStart + first.length > kBytes) {
        return std::nullopt;
      }
      descriptors.clear();
      const std::size_t entries = first.length / 16;
      // Of a too long table the last entry only.
      for (std::size_t i = entries > virtio::kMaxChainDescriptors ? entries - 1 : 0; i < entries;
           ++i) {
        descriptors.push_back(get<PackedDescriptor>(first.address - kStart + 16 * i));
      }
    }
    std::optional<std::uint64_t> last;
    for (const PackedDescriptor& descriptor : descriptors) {
      if ((descriptor.flags & virtio::kDescriptorIndirect) != 0) {
        last.reset();
      } else if (descriptor.length != 0 && (descriptor.flags & virtio::kDescriptorWrite) != 0) {
        const std::uint64_t end = descriptor.address + (descriptor.length - 1);
        last = end < descriptor.address ? std::nullopt : std::optional(end);
      }
    }
    return last;
  }

  void pop() {
    auto popped_chain = std::make_unique<PoppedChain>();
    const auto popped = queue_->pop(memory_, popped_chain->chain);
    if (!is_available(avail_)) {
      GUESTIO_CHECK(popped.has_value() && *popped == PopResult::kNothing, "nothing");
      return;
    }
    const auto descriptors = fetch();
    const bool good_id =
        descriptors && descriptors->back().id < size_ &&
        !std::ranges::any_of(
            chains_,
            [&](const auto& other) { return other->chain.head() == descriptors->back().id; });
    if (!good_id) {
      GUESTIO_CHECK(!popped.has_value(), "an error for a malformed ring");
      GUESTIO_CHECK(popped.error().kind == ErrorKind::kPeerFault, "a peer fault");
      return;
    }
    GUESTIO_CHECK(popped.has_value(), "a chain from a valid ring");
    const ExpectedChain expected = walk(*descriptors);
    if (*popped == PopResult::kNoRoom) {
      GUESTIO_CHECK(expected.kind == ExpectedChain::Kind::kNoRoom ||
                        expected.kind == ExpectedChain::Kind::kNoRoomOrMalformed,
                    "no room, as in the model");
      return;
    }
    GUESTIO_CHECK(
        *popped == PopResult::kChain && popped_chain->chain.head() == descriptors->back().id,
        "the chain");
    GUESTIO_CHECK(queue_->fetched().size() == descriptors->size(), "the fetched descriptors");
    check_chain(popped_chain->chain, expected);
    if (popped_chain->chain.is_malformed()) {
      const auto last = last_writable(*descriptors);
      GUESTIO_CHECK(popped_chain->chain.last_writable().has_value() == last.has_value(),
                    "a status or none");
      if (last)
        GUESTIO_CHECK(popped_chain->chain.last_writable()->raw() == *last, "the model's status");
    }
    popped_chain->descriptors = descriptors->size();
    avail_.count += popped_chain->descriptors;
    chains_.push_back(std::move(popped_chain));
  }

  static void check_chain(const Chain& chain, const ExpectedChain& expected) {
    if (chain.is_malformed()) {
      GUESTIO_CHECK(expected.kind == ExpectedChain::Kind::kMalformed ||
                        expected.kind == ExpectedChain::Kind::kNoRoomOrMalformed,
                    "a complete chain");
      GUESTIO_CHECK(
          chain.extents().empty() && chain.readable_length() == 0 && chain.writable_length() == 0,
          "a malformed chain without extents");
      return;
    }
    GUESTIO_CHECK(expected.kind == ExpectedChain::Kind::kComplete, "a malformed chain");
    GUESTIO_CHECK(std::ranges::equal(chain.extents(), expected.extents), "the model's extents");
    GUESTIO_CHECK(chain.readable().size() == expected.readable, "the model's readable extents");
  }

  void push() {
    if (chains_.empty()) return;
    const auto chosen =
        chains_.begin() + static_cast<std::ptrdiff_t>(program_.index(chains_.size()));
    const auto written = program_.take<std::uint32_t>();
    const std::uint16_t id = (*chosen)->chain.head();
    GUESTIO_CHECK(queue_->push_used(id, written).has_value(), "a used descriptor");
    pushed_.push_back({.count = (*chosen)->descriptors, .id = id, .written = written});
    chains_.erase(chosen);
  }

  void publish() {
    const ModelPosition before = used_;
    const auto needs_call = queue_->publish();
    GUESTIO_CHECK(needs_call.has_value(), "to publish");
    if (pushed_.empty()) {
      GUESTIO_CHECK(!*needs_call, "no call for nothing");
      return;
    }
    for (const UsedEntry& entry : pushed_) {
      const auto used = get<PackedDescriptor>(16 * used_.index());
      GUESTIO_CHECK(used.id == entry.id && used.length == entry.written, "the used descriptor");
      GUESTIO_CHECK((used.flags & 0x8080) == (used_.wrap() ? 0x8080 : 0), "its flags");
      used_.count += entry.count;
    }
    pushed_.clear();
    const auto expected = expected_call(before);
    GUESTIO_CHECK(!expected || *needs_call == *expected, "a call if the driver needs one");
  }

  /// Nothing if the event is outside the ring: then both results are valid.
  [[nodiscard]] std::optional<bool> expected_call(ModelPosition before) {
    if (std::exchange(forced_, false)) return true;
    const auto event = get<virtio::PackedEvent>(kDriverEvent);
    const int kind = event.flags & 3;
    if (kind == 1) return false;
    if (kind != 2 || (features_ & virtio::kFeatureEventIdx) == 0) return true;
    if ((event.position & 0x7fff) >= size_) return std::nullopt;
    for (; before.count != used_.count; ++before.count) {
      if (before.word() == event.position) return true;
    }
    return false;
  }

  void notifications() {
    if (program_.flag()) {
      GUESTIO_CHECK(queue_->suppress_notifications().has_value(), "to suppress notifications");
      GUESTIO_CHECK(get<std::uint16_t>(kDeviceEvent + 2) == 1, "the flag");
      return;
    }
    const auto available = queue_->enable_notifications();
    const bool by_event = (features_ & virtio::kFeatureEventIdx) != 0;
    GUESTIO_CHECK(get<std::uint16_t>(kDeviceEvent) == avail_.word(), "the event");
    GUESTIO_CHECK(get<std::uint16_t>(kDeviceEvent + 2) == (by_event ? 2 : 0), "the flag for kicks");
    GUESTIO_CHECK(available.has_value() && *available == is_available(avail_),
                  "chains before the kicks");
  }

  void check() const {
    GUESTIO_CHECK(queue_->in_flight() == chains_.size(), "the model's chains in flight");
    GUESTIO_CHECK(avail_.count - used_.count <= size_, "no more descriptors than the ring holds");
    GUESTIO_CHECK(queue_->base().avail.to_word() == avail_.word(),
                  "the model's available position");
    GUESTIO_CHECK(queue_->base().used.to_word() == used_.word(), "the model's used position");
  }

  struct UsedEntry {
    std::size_t count;
    std::uint16_t id;
    std::uint32_t written;
  };

  const GuestMemory& memory_;
  std::byte* const host_;
  Program& program_;
  const std::uint16_t size_;
  virtio::FeatureBits features_;
  std::optional<PackedDeviceRing> queue_;
  std::vector<std::unique_ptr<PoppedChain>> chains_;  // in flight; end before the ring
  std::vector<UsedEntry> pushed_;                     // pushed, unpublished
  ModelPosition avail_;                               // the device's
  ModelPosition used_;
  ModelPosition driver_;  // the next available position
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
