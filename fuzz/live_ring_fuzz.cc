// SPDX-License-Identifier: MIT
// A hostile driver writes random values into the ring, its tables and its memory, while a device
// serves them on its own thread: split and packed rings, with and without an in-flight record. The
// process survives, each popped chain is returned, a stopped ring signals its error descriptor, and
// another ring on the same thread is served as before.
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <future>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "fuzz/program.h"
#include "guestio/base/check.h"
#include "guestio/base/log.h"
#include "guestio/base/standard_fds.h"
#include "guestio/blk/block_queue.h"
#include "guestio/disk/file/file_disk.h"
#include "guestio/vhost/ring/queue_thread.h"
#include "guestio/virtio/blk_layout.h"
#include "guestio/virtio/ring_for_test.h"
#include "guestio/virtio/split_driver_ring.h"
#include "testing/temporary.h"

namespace guestio::fuzz {
namespace {

constexpr std::uint64_t kStart = 0x40000000;
constexpr std::size_t kBytes = std::size_t{512} << 10;
// A split ring: descriptors, available and used ring. A packed one: descriptors, event areas.
constexpr std::size_t kAvail = 0x1000;
constexpr std::size_t kUsed = 0x2000;
constexpr std::size_t kTables = 0x3000;
constexpr std::size_t kHeaders = 0x4000;
constexpr std::size_t kData = 0x8000;
constexpr int kMaxSteps = 100;

/// Counts the chains that a device pops and returns.
class ChainCounter final : public virtio::QueueHandler, private virtio::DeviceQueue {
 public:
  explicit ChainCounter(std::unique_ptr<virtio::QueueHandler> device)
      : device_(std::move(device)) {}

  void process(virtio::DeviceQueue& queue) noexcept override {
    queue_ = &queue;
    device_->process(*this);
  }
  void drain() noexcept override { device_->drain(); }
  virtio::HandoverHandler* handover() noexcept override { return device_->handover(); }
  std::optional<std::uint32_t> write_error_status(
      const virtio::PoppedChain& popped) noexcept override {
    const auto written = device_->write_error_status(popped);
    if (!written) has_broken_ = true;
    return written;
  }
  [[nodiscard]] std::uint64_t unreturned() const noexcept { return popped_ - returned_; }
  /// Whether a chain broke the ring since the last time.
  [[nodiscard]] bool take_broken() noexcept { return std::exchange(has_broken_, false); }

 private:
  virtio::PopResult pop(virtio::PoppedChain& popped) noexcept override {
    const virtio::PopResult result = queue_->pop(popped);
    if (result == virtio::PopResult::kChain) ++popped_;
    return result;
  }
  void complete(virtio::PoppedChain& popped, std::uint32_t written) noexcept override {
    ++returned_;
    GUESTIO_CHECK(written != 0, "a status in each returned chain");
    queue_->complete(popped, written);
  }
  void break_on(virtio::PoppedChain& popped, const Error& cause) noexcept override {
    ++returned_;
    has_broken_ = true;
    queue_->break_on(popped, cause);
  }
  void abandon(virtio::PoppedChain& popped) noexcept override {
    ++returned_;
    queue_->abandon(popped);
  }
  [[nodiscard]] virtio::FeatureBits features() const noexcept override {
    return queue_->features();
  }

  std::unique_ptr<virtio::QueueHandler> device_;
  virtio::DeviceQueue* queue_ = nullptr;
  std::uint64_t popped_ = 0;
  std::uint64_t returned_ = 0;
  bool has_broken_ = false;
};

/// Memory mapped by driver and device separately.
class SharedMemory {
 public:
  SharedMemory() {
    const std::array regions = {mem::FileRegion{.start = Gpa(kStart),
                                                .size = ByteCount(kBytes),
                                                .fd = file_.fd(),
                                                .offset = FileOffset(0),
                                                .access = Mapping::Access::kReadWrite}};
    device_ = *mem::map_file_regions(regions);
  }
  [[nodiscard]] std::byte* driver() const { return mapping_.data(); }
  [[nodiscard]] const mem::GuestMemory& device() const { return device_; }
  [[nodiscard]] std::byte* device_at(std::size_t at) const {
    return *device_.host_range(Gpa(kStart), kBytes) + at;
  }

 private:
  testing::MemoryFile file_{kBytes};
  Mapping mapping_ = std::move(
      *Mapping::shared_file(file_.fd(), FileOffset(0), kBytes, Mapping::Access::kReadWrite));
  mem::GuestMemory device_;
};

/// A running ring on a thread, until stop().
class LiveRing {
 public:
  LiveRing(vhost::QueueThread& thread, vhost::Queue& queue, vhost::Vring::Setup setup)
      : thread_(thread), queue_(queue) {
    setup.kick = UniqueFd(::dup(kick_.get()));
    setup.error = UniqueFd(::dup(error_.get()));
    setup.is_enabled = true;
    thread_.call([&] {
      auto ring = vhost::Vring::create(thread_.loop(), thread_.poller(), queue_.handler(),
                                       std::move(setup));
      if (!ring) return;
      queue_.vring() = std::move(*ring);
      queue_.vring()->start();
      runs_ = true;
    });
  }
  [[nodiscard]] bool is_running() const noexcept { return runs_; }
  void kick() const { (void)::eventfd_write(kick_.get(), 1); }
  /// Waits for the device to handle all previous steps.
  void settle() const {
    kick();
    thread_.call([] {});
    thread_.call([] {});
  }
  [[nodiscard]] bool is_broken() const {
    eventfd_t count = 0;
    return ::eventfd_read(error_.get(), &count) == 0;
  }
  /// Returns the base.
  std::uint32_t stop() {
    std::promise<std::uint32_t> stopped;
    auto next = stopped.get_future();
    thread_.call([&] {
      queue_.vring()->stop([&](std::uint32_t base) {
        thread_.loop().post([&, base] {
          queue_.vring().reset();
          stopped.set_value(base);
        });
      });
    });
    return next.get();
  }

 private:
  static UniqueFd make_event() { return UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); }

  vhost::QueueThread& thread_;
  vhost::Queue& queue_;
  const UniqueFd kick_ = make_event();
  const UniqueFd error_ = make_event();
  bool runs_ = false;
};

/// The driver of one input.
class Driver {
 public:
  Driver(std::byte* memory, Program& program, bool is_packed, std::uint16_t size,
         const vhost::InflightRecord* record)
      : memory_(memory), program_(program), is_packed_(is_packed), size_(size), record_(record) {}

  void play(const LiveRing& ring) {
    for (int step = 0; step < kMaxSteps && !program_.is_over(); ++step) {
      switch (program_.index(8)) {
        case 0:
        case 1:
        case 2: add_chain(); break;
        case 3: poke(); break;
        case 4: change_descriptor(); break;
        case 5: move_index(); break;
        case 6: ring.kick(); break;
        default: ring.settle();
      }
      if (program_.is_over() || program_.flag()) ring.kick();
    }
  }
  /// The used index of a split ring.
  [[nodiscard]] std::uint16_t published() const { return get<std::uint16_t>(kUsed + 2); }

 private:
  template <typename T>
  [[nodiscard]] T get(std::size_t at) const {
    T value;
    std::memcpy(&value, memory_ + at, sizeof value);
    return value;
  }
  /// All but the used index of a split ring: the device writes and never reads it, and the check
  /// does.
  void put_bytes(std::size_t at, std::span<const std::byte> bytes) {
    for (const std::byte byte : bytes) {
      const bool is_kept = !is_packed_ && (at == kUsed + 2 || at == kUsed + 3);
      if (at < kBytes && !is_kept) memory_[at] = byte;
      ++at;
    }
  }
  template <typename T>
  void put(std::size_t at, const T& value) {
    put_bytes(at, std::as_bytes(std::span(&value, 1)));
  }

  void poke() {
    static constexpr std::array<std::size_t, 8> kTargets = {0,       0,        kAvail, kUsed,
                                                            kTables, kHeaders, kData,  0};
    const std::size_t at =
        kTargets[program_.index(kTargets.size())] + program_.take<std::uint16_t>();
    const auto bytes = std::as_bytes(program_.bytes(1 + program_.index(24)));
    if (record_ != nullptr && program_.index(4) == 0) {
      (void)!::pwrite(record_->fd(), bytes.data(), bytes.size(), static_cast<off_t>(at % 4096));
    } else {
      put_bytes(at, bytes);
    }
  }

  struct Segment {
    std::uint64_t address;
    std::uint32_t length;
    bool is_writable;
  };

  Segment random_segment(bool is_writable) {
    Segment segment{kStart + kData + program_.take<std::uint16_t>() * 4U, 512, is_writable};
    switch (program_.index(8)) {
      case 0: segment.length = program_.take<std::uint16_t>(); break;
      case 1: segment.length = program_.take<std::uint32_t>(); break;
      case 2: segment.address = kStart + kBytes - program_.take<std::uint8_t>(); break;
      case 3: segment.address = kStart; break;  // the ring itself
      case 4: segment.length = 512 * (1 + program_.take<std::uint8_t>()); break;
      default: break;
    }
    return segment;
  }

  /// A mostly valid request: a valid header, random segments.
  void add_chain() {
    const std::size_t header = kHeaders + 64 * program_.index(64);
    static constexpr std::array<std::uint32_t, 8> kTypes = {0, 1, 4, 8, 11, 13, 0, 1};
    const virtio::blk::RequestHeader request{
        static_cast<virtio::blk::RequestType>(kTypes[program_.index(kTypes.size())]), 0,
        program_.take<std::uint16_t>() % 2100U};
    put(header, request);
    std::vector<Segment> parts = {{kStart + header, 16, false}};
    const bool is_read = request.type == virtio::blk::RequestType::kIn || program_.index(16) == 0;
    for (std::size_t count = program_.index(5); count > 0; --count) {
      parts.push_back(random_segment(is_read));
    }
    parts.push_back({kStart + header + 32, 1, true});
    if (program_.index(4) == 0) {
      add_table(parts);
    } else {
      add_direct(parts);
    }
  }
  void add_table(const std::vector<Segment>& parts) {
    const std::size_t table = kTables + 256 * program_.index(16);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const auto next = static_cast<std::uint16_t>(i + 1);
      put(table + 16 * i, to_descriptor(parts[i], next != parts.size(), next));
    }
    const auto bytes = static_cast<std::uint32_t>(16 * parts.size());
    const std::uint16_t head = next_index();
    put(16U * head, virtio::Descriptor{kStart + table, bytes,
                                       flags_of(virtio::kDescriptorIndirect, false), head});
    ++added_;
    if (!is_packed_) make_available(head);
  }
  void add_direct(const std::vector<Segment>& parts) {
    const std::uint16_t head = next_index();
    for (std::size_t i = 0; i < parts.size(); ++i, ++added_) {
      const bool has_next = i + 1 != parts.size();
      const auto next = static_cast<std::uint16_t>((added_ + 1) % size_);
      // The last word of a packed descriptor is an id, even one in flight.
      put(16U * next_index(), to_descriptor(parts[i], has_next, is_packed_ ? next_index() : next));
    }
    if (!is_packed_) make_available(head);
  }
  [[nodiscard]] std::uint16_t next_index() const {
    return static_cast<std::uint16_t>(added_ % size_);
  }
  [[nodiscard]] std::uint16_t flags_of(std::uint16_t flags, bool is_writable) const {
    if (is_writable) flags |= virtio::kDescriptorWrite;
    if (is_packed_) flags |= (added_ / size_) % 2 == 0 ? 0x80 : 0x8000;
    return flags;
  }
  [[nodiscard]] virtio::Descriptor to_descriptor(const Segment& segment, bool has_next,
                                                 std::uint16_t last_word) const {
    const std::uint16_t next = has_next ? virtio::kDescriptorNext : 0;
    // Flags and the last word are in opposite order in the two kinds.
    virtio::Descriptor descriptor{segment.address, segment.length,
                                  flags_of(next, segment.is_writable), last_word};
    if (is_packed_) std::swap(descriptor.flags, descriptor.next);
    return descriptor;
  }
  void make_available(std::uint16_t head) {
    const auto index = get<std::uint16_t>(kAvail + 2);
    put(kAvail + 4 + std::size_t{2} * (index % size_), head);
    std::atomic_thread_fence(std::memory_order_release);
    put(kAvail + 2, static_cast<std::uint16_t>(index + 1));
  }

  void change_descriptor() {
    const std::size_t at = 16 * program_.index(size_);
    const auto word = program_.take<std::uint16_t>();
    put(at + 8 + 2 * program_.index(4), word);
  }
  void move_index() {
    const auto by = program_.index(4) == 0 ? program_.take<std::uint16_t>()
                                           : static_cast<std::uint16_t>(program_.index(4));
    put(kAvail + 2, static_cast<std::uint16_t>(get<std::uint16_t>(kAvail + 2) + by));
  }

  std::byte* const memory_;
  Program& program_;
  const bool is_packed_;
  const std::uint16_t size_;
  const vhost::InflightRecord* const record_;
  std::uint64_t added_ = 0;  // descriptors
};

/// A thread with two queues: one under attack, and an unaffected bystander.
class Fixture {
 public:
  Fixture() {
    log::set_level(log::Level::kError);
    attacked_ = make_queue();
    auto bystander_queue = make_queue();
    bystander_queue_ = std::move(bystander_queue);
    bystander_.emplace(
        *thread_, *bystander_queue_,
        vhost::Vring::Setup{.ring = bystander_ring_.device(), .memory = bystander_ring_.memory()});
  }

  void run(Program& program) {
    const bool is_packed = program.flag();
    const std::uint16_t size = is_packed ? static_cast<std::uint16_t>(1 + program.index(64))
                                         : static_cast<std::uint16_t>(1U << program.index(7));
    const virtio::FeatureBits features = virtio::kFeatureVersion1 | virtio::blk::kFeatureFlush |
                                         (is_packed ? virtio::kFeatureRingPacked : 0) |
                                         (program.flag() ? virtio::kFeatureEventIdx : 0) |
                                         (program.flag() ? virtio::kFeatureIndirectDesc : 0);
    std::shared_ptr<const vhost::InflightRecord> record;
    if (program.flag())
      record = *vhost::InflightRecord::create(virtio::ring_kind(features), 1, size);
    std::memset(memory_.driver(), 0, kBytes);
    LiveRing ring(*thread_, *attacked_,
                  {.ring = parts(is_packed, size),
                   .features = features,
                   .base = is_packed ? 0x80008000U : 0U,
                   .inflight = record,
                   .memory = memory_.device()});
    GUESTIO_CHECK(ring.is_running(), "a ring in its own memory");
    Driver driver(memory_.driver(), program, is_packed, size, record.get());
    driver.play(ring);
    ring.settle();
    const std::uint32_t next = ring.stop();
    GUESTIO_CHECK(counter_->unreturned() == 0, "each popped chain is returned");
    const bool is_all_published = is_packed || driver.published() == (next & 0xffff);
    const bool is_broken = ring.is_broken();
    GUESTIO_CHECK(is_all_published || is_broken, "a stopped ring signals an error");
    GUESTIO_CHECK(!counter_->take_broken() || is_broken,
                  "a chain without a status breaks its ring");
    if (++runs_ % 16 == 0) check_bystander();
  }

 private:
  std::unique_ptr<vhost::Queue> make_queue() {
    return std::move(*vhost::Queue::create(
        *thread_, 0,
        [this](uring::Loop& loop, std::uint16_t) -> Result<std::unique_ptr<virtio::QueueHandler>> {
          auto channel = disk_->open_channel(loop, ByteCount(65536));
          if (!channel) return fail(channel.error());
          auto counter = std::make_unique<ChainCounter>(
              std::make_unique<blk::BlockQueue>(device_, std::move(*channel)));
          // The first queue is the one under attack.
          if (counter_ == nullptr) counter_ = counter.get();
          return counter;
        }));
  }

  [[nodiscard]] virtio::RingParts parts(bool is_packed, std::uint16_t size) const {
    std::byte* const at = memory_.device_at(0);
    if (is_packed) return *virtio::PackedRing::at(at, at + kAvail, at + kUsed, size);
    return *virtio::SplitRing::at(at, at + kAvail, at + kUsed, size);
  }

  void check_bystander() {
    const virtio::blk::RequestHeader header{virtio::blk::RequestType::kGetId, 0, 0};
    const Gpa at = virtio::RingForTest::kData;
    std::memcpy(bystander_ring_.at(at), &header, sizeof header);
    const std::array chain = {
        virtio::DriverSegment{at, 16, virtio::Direction::kReadable},
        virtio::DriverSegment{at.plus_unchecked(64), 21, virtio::Direction::kWritable}};
    GUESTIO_CHECK(bystander_driver_.add(chain).has_value(), "room in the other ring");
    GUESTIO_CHECK(bystander_driver_.publish().has_value(), "the other ring");
    bystander_->kick();
    while (true) {
      const auto used = bystander_driver_.reap();
      GUESTIO_CHECK(used.has_value(), "the other ring");
      if (*used) break;
      std::this_thread::yield();
    }
    GUESTIO_CHECK(std::memcmp(bystander_ring_.at(at.plus_unchecked(64)), "fuzz", 5) == 0,
                  "the other disk unchanged");
  }

  SharedMemory memory_;
  testing::MemoryFile image_{std::uint64_t{1} << 20};
  std::unique_ptr<disk::FileDisk> disk_ = std::move(*disk::FileDisk::open({.path = image_.path()}));
  blk::BlockDevice device_{{.disk = disk_->info(), .queues = 2, .serial = "fuzz"}};
  std::unique_ptr<vhost::QueueThread> thread_ =
      std::move(*vhost::QueueThread::start({.name = "ring", .polling = {}}));
  ChainCounter* counter_ = nullptr;
  std::unique_ptr<vhost::Queue> attacked_;
  virtio::RingForTest bystander_ring_{16};
  virtio::SplitDriverRing bystander_driver_ =
      std::move(*virtio::SplitDriverRing::create(bystander_ring_.driver(), 0));
  std::unique_ptr<vhost::Queue> bystander_queue_;
  std::optional<LiveRing> bystander_;
  std::uint64_t runs_ = 0;
};

}  // namespace
}  // namespace guestio::fuzz

extern "C" int LLVMFuzzerInitialize(int* /*count*/, char*** /*words*/) {
  guestio::open_standard_fds();
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace guestio;
  static fuzz::Fixture& fixture = *new fuzz::Fixture();
  fuzz::Program program(data, size);
  fixture.run(program);
  return 0;
}
