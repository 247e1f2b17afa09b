// SPDX-License-Identifier: MIT
// The dirty log of a live migration from the front-end's side: it marks the pages the device
// writes, and no others.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include <atomic>
#include <cstring>
#include <random>
#include <set>
#include <thread>
#include <utility>

#include "guestio/mem/dirty_log.h"
#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

using Type = testing::BlkGuest::Type;
using Pages = std::set<std::uint64_t>;

constexpr vhost::ProtocolBits kLogs = vhost::kProtocolMq | vhost::kProtocolConfig |
                                      vhost::kProtocolReplyAck | vhost::kProtocolLogShmfd;
constexpr auto kSetLogBase = std::to_underlying(vhost::FrontendRequest::kSetLogBase);
constexpr std::uint64_t kPageBytes = 4096;

/// A dirty log in a shared file, as a front-end keeps it.
struct SharedLog {
  explicit SharedLog(std::size_t bytes) : size(bytes) {
    EXPECT_EQ(::ftruncate(file.get(), static_cast<off_t>(size)), 0);
    bits.emplace(std::move(
        *Mapping::shared_file(file.get(), FileOffset(0), size, Mapping::Access::kReadWrite)));
  }
  /// Collects and clears the marks; page numbers count from guest address 0.
  Pages collect() {
    Pages pages;
    for (std::size_t i = 0; i < size; ++i) {
      auto& byte = reinterpret_cast<std::uint8_t&>(bits->data()[i]);
      const std::uint8_t seen = std::atomic_ref(byte).exchange(0);
      for (std::uint64_t bit = 0; bit < 8; ++bit) {
        if ((seen >> bit & 1) != 0) pages.insert(i * 8 + bit);
      }
    }
    return pages;
  }

  std::size_t size;
  UniqueFd file{::memfd_create("log", MFD_CLOEXEC)};
  std::optional<Mapping> bits;
};

class MigrationLogTest : public BackendTest, public ::testing::WithParamInterface<bool> {
 protected:
  void SetUp() override {
    start({"--control", control_});
    reconnect();
  }
  void TearDown() override {
    guest_.reset();
    expect_alive();
    stop();
  }

  void reconnect() {
    guest_.reset();
    guest_ = connect({.features = GetParam() ? ~std::uint64_t{0} : ~virtio::kFeatureRingPacked,
                      .protocol = kLogs});
    ASSERT_NE(guest_, nullptr);
  }
  vhost::Frontend& frontend() { return guest_->frontend(); }
  Result<> use(const SharedLog& log) {
    return frontend().set_log_base({.size = log.size, .offset = 0}, log.file.get());
  }
  void switch_logging(bool is_on) {
    const std::uint64_t without = frontend().negotiated().features & ~vhost::kFeatureLogAll;
    ASSERT_TRUE(frontend().set_features(is_on ? without | vhost::kFeatureLogAll : without));
    ASSERT_TRUE(guest_->queue().set_logged(frontend(), is_on));
  }
  /// The marks, counted from the guest's first page.
  Pages collect(SharedLog& log) {
    // A used entry is visible before its ring page is marked: after this, all visible entries are.
    EXPECT_TRUE(frontend().set_vring_enable(0, true));
    return collect_now(log);
  }
  Pages collect_now(SharedLog& log) {
    Pages pages;
    const std::uint64_t first = guest_->memory().whole().gpa.raw() / kPageBytes;
    for (const std::uint64_t page : log.collect()) pages.insert(page - first);
    return pages;
  }
  [[nodiscard]] std::uint64_t page_of(Gpa address) {
    return (address.raw() - guest_->memory().whole().gpa.raw()) / kPageBytes;
  }
  /// The pages of header and status, and of the used ring.
  [[nodiscard]] std::uint64_t status_page() { return page_of(guest_->scratch().gpa); }
  Pages ring_pages() {
    const std::uint64_t answers = page_of(guest_->queue().used_ring_address());
    // The device event area of a packed ring follows two areas after its descriptors.
    return GetParam() ? Pages{answers, answers + 2} : Pages{answers};
  }
  Pages with_ring(Pages pages) {
    pages.merge(ring_pages());
    return pages;
  }

  std::unique_ptr<testing::BlkGuest> guest_;
  /// As long as the guest's address space requires.
  SharedLog log_{(0x1'0000'0000 + (std::size_t{8} << 20)) / kPageBytes / 8};
};

INSTANTIATE_TEST_SUITE_P(Rings, MigrationLogTest, ::testing::Bool(),
                         [](const auto& kind) { return kind.param ? "Packed" : "Split"; });

TEST_P(MigrationLogTest, Rule5And42LoggingIsSwitchedOnAndOffWhileTheRingRuns) {
  constexpr std::size_t kFourPages = 16384;
  ASSERT_TRUE(use(log_));
  EXPECT_EQ(guest_->read(0, kFourPages).status, 0);
  EXPECT_EQ(collect(log_), Pages{}) << "logging is off";
  switch_logging(true);
  EXPECT_EQ(collect(log_), ring_pages()) << "the whole ring is marked at first";
  EXPECT_EQ(guest_->read(0, kFourPages).status, 0);
  const std::uint64_t page = status_page();
  EXPECT_EQ(collect(log_), with_ring({page, page + 1, page + 2, page + 3, page + 4}));
  EXPECT_EQ(guest_->write(0, std::vector<std::byte>(kFourPages)).status, 0);
  EXPECT_EQ(collect(log_), with_ring({page})) << "a write marks only its status";
  switch_logging(false);
  (void)collect(log_);
  EXPECT_EQ(guest_->read(0, kFourPages).status, 0);
  EXPECT_EQ(collect(log_), Pages{});
}

TEST_P(MigrationLogTest, WritesAfterATakeoverAreLogged) {
  constexpr std::size_t kFourPages = 16384;
  ASSERT_TRUE(use(log_));
  switch_logging(true);
  EXPECT_EQ(guest_->read(0, kFourPages).status, 0);
  take_over();
  EXPECT_TRUE(collect(log_).contains(status_page() + 4)) << "earlier marks stay";
  EXPECT_EQ(guest_->read(0, kFourPages).status, 0);
  const std::uint64_t page = status_page();
  EXPECT_EQ(collect(log_), with_ring({page, page + 1, page + 2, page + 3, page + 4}));
  switch_logging(false);
  (void)collect(log_);
  EXPECT_EQ(guest_->read(0, kFourPages).status, 0);
  EXPECT_EQ(collect(log_), Pages{});
}

TEST_P(MigrationLogTest, Rule42DataOfAnyLayoutIsLogged) {
  ASSERT_TRUE(use(log_));
  switch_logging(true);
  const std::uint64_t page = status_page();
  for (const std::size_t misalignment : {1U, 512U, 4095U}) {
    (void)collect(log_);
    EXPECT_EQ(guest_->perform(Type::kIn, 1, {}, 4096 + 512, misalignment).status, 0);
    EXPECT_EQ(collect(log_),
              with_ring(misalignment > 3584 ? Pages{page, page + 1, page + 2, page + 3}
                                            : Pages{page, page + 1, page + 2}));
  }
  EXPECT_EQ(guest_->perform(Type::kGetId, 0, {}, 20).status, 0);
  EXPECT_EQ(collect(log_), with_ring({page, page + 1}));
}

TEST_P(MigrationLogTest, Rule42ASecondLogReplacesTheFirst) {
  ASSERT_TRUE(use(log_));
  switch_logging(true);
  SharedLog second_log(log_.size + 4096);
  ASSERT_TRUE(use(second_log));
  (void)collect(log_);
  (void)collect(second_log);
  EXPECT_EQ(guest_->read(0, 512).status, 0);
  EXPECT_EQ(collect(log_), Pages{});
  EXPECT_EQ(collect(second_log), with_ring({status_page(), status_page() + 1}));
}

TEST_P(MigrationLogTest, Rule42AShortLogFailsRequestsBeyondIt) {
  SharedLog brief(4096);
  const UniqueFd error(::eventfd(0, EFD_CLOEXEC));
  ASSERT_TRUE(frontend().set_vring_err(0, error.get()));
  ASSERT_TRUE(use(brief));
  const std::uint64_t features = frontend().negotiated().features | vhost::kFeatureLogAll;
  ASSERT_TRUE(frontend().set_features(features));
  EXPECT_NE(guest_->read(0, 4096).status, 0) << "no success without a mark";
  ASSERT_TRUE(guest_->queue().set_logged(frontend(), true));
  std::uint64_t count = 0;
  EXPECT_EQ(::read(error.get(), &count, sizeof count), 8) << "the ring stops and signals VringErr";
}

TEST_P(MigrationLogTest, Rule42ATruncatedLogIsNotFatal) {
  ASSERT_TRUE(use(log_));
  const std::uint64_t features = frontend().negotiated().features | vhost::kFeatureLogAll;
  ASSERT_TRUE(frontend().set_features(features));
  ASSERT_EQ(::ftruncate(log_.file.get(), 0), 0);
  EXPECT_NE(guest_->read(0, 4096).status, 0);
  log_ = SharedLog(log_.size);
  ASSERT_TRUE(use(log_));
  EXPECT_EQ(guest_->read(0, 4096).status, 0);
}

TEST_P(MigrationLogTest, Rule42MalformedLogsAreRefused) {
  const int file = log_.file.get();
  const std::uint64_t size = log_.size;
  EXPECT_FALSE(frontend().set_log_base({.size = 0, .offset = 0}, file));
  EXPECT_FALSE(frontend().set_log_base({.size = size + 1, .offset = 0}, file));
  EXPECT_FALSE(frontend().set_log_base({.size = 4096, .offset = 1}, file));
  EXPECT_FALSE(frontend().set_log_base({.size = 4096, .offset = ~std::uint64_t{0} - 4095}, file));
  EXPECT_FALSE(frontend().set_log_base({.size = 0, .offset = 0}, guest_->queue().call_fd()));
  EXPECT_FALSE(frontend().set_log_fd(file)) << "not an eventfd";
  const auto addresses = [this](std::uint64_t log) {
    return frontend().set_vring_addr({0, vhost::kVringLog, 0, 0, 0, log});
  };
  EXPECT_FALSE(addresses(~std::uint64_t{0} - 16)) << "beyond the address space";
  vhost::Message answer;
  const vhost::LogDescription where{.size = size, .offset = 0};
  const auto payload = std::as_bytes(std::span(&where, 1));
  for (const auto& descriptors : {std::vector<int>{}, std::vector<int>{file, file}}) {
    ASSERT_TRUE(frontend().send_and_receive(kSetLogBase, payload, descriptors, answer));
    EXPECT_EQ(answer.as<std::uint64_t>(), 1u);
  }
  ASSERT_TRUE(frontend().set_protocol_features(vhost::kProtocolReplyAck));
  EXPECT_FALSE(frontend().send_message(kSetLogBase, payload, std::array{file})) << "not negotiated";
  EXPECT_EQ(guest_->read(0, 4096).status, 0);
}

TEST_P(MigrationLogTest, Rule42TheLogEventIsSignalled) {
  const UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  ASSERT_TRUE(frontend().set_log_fd(event.get()));
  ASSERT_TRUE(use(log_));
  switch_logging(true);
  EXPECT_EQ(guest_->read(0, 4096).status, 0);
  std::uint64_t count = 0;
  EXPECT_EQ(::read(event.get(), &count, sizeof count), 8);
}

/// A small migration: dirty pages are copied repeatedly while the device writes them; a last round
/// after the ring has stopped completes the copy.
TEST_P(MigrationLogTest, Rule42ACopyMadeUnderLoadMissesNoPage) {
  constexpr std::size_t kArea = std::size_t{1} << 20;
  ASSERT_TRUE(use(log_));
  switch_logging(true);
  const vhost::SharedRange area = guest_->scratch().part(4096, kArea);
  std::mt19937_64 random(5);
  std::vector<std::byte> pattern(kArea);
  for (auto& byte : pattern) byte = static_cast<std::byte>(random());
  // The guest's own writes, absent from the device's log.
  ASSERT_EQ(guest_->write(0, pattern).status, 0);
  std::vector<std::byte> copy(area.host, area.host + kArea);
  const auto copy_marked = [&] {
    for (const std::uint64_t page : collect_now(log_)) {
      const std::uint64_t at = (page - page_of(area.gpa)) * kPageBytes;
      if (at < kArea) std::memcpy(&copy[at], area.host + at, kPageBytes);
    }
  };
  std::atomic<bool> is_done = false;
  std::jthread collector([&] {
    while (!is_done) copy_marked();
  });
  for (int round = 0; round < 400; ++round) {
    const std::size_t bytes = 512 * (1 + random() % 64);
    const std::size_t place = random() % (kArea / 2);
    const std::uint64_t sector = random() % 1024;
    ASSERT_EQ(guest_->perform(Type::kIn, sector, {}, bytes, place).status, 0);
  }
  is_done = true;
  collector.join();
  ASSERT_TRUE(guest_->queue().stop(frontend()).has_value());
  copy_marked();
  EXPECT_EQ(std::memcmp(copy.data(), area.host, kArea), 0);
}

}  // namespace
}  // namespace guestio::tests
