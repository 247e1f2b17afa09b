// SPDX-License-Identifier: MIT
// The dirty log and chains in flight while it is switched on, replaced or stopped.
#include <sys/mman.h>

#include <vector>

#include "guestio/mem/dirty_log.h"
#include "guestio/vhost/session/backend_for_test.h"

namespace guestio::vhost {
namespace {

class BackendLogTest : public test::BackendFixture {
 protected:
  static constexpr std::size_t kLogBytes = (0x1'0000'0000 + (std::size_t{1} << 20)) / 4096 / 8;

  void SetUp() override {
    BackendFixture::SetUp();
    negotiate(kProtocolReplyAck | kProtocolLogShmfd);
    start_ring();
    with_handler([](test::IdleQueue& handler) { handler.holds = true; });
  }

  static UniqueFd make_log() {
    UniqueFd file(::memfd_create("log", MFD_CLOEXEC));
    EXPECT_EQ(::ftruncate(file.get(), kLogBytes), 0);
    return file;
  }
  void use(const UniqueFd& log) {
    ASSERT_TRUE(frontend_->set_log_base({.size = kLogBytes, .offset = 0}, log.get()));
  }
  void switch_on() {
    ASSERT_TRUE(frontend_->set_features(kFeatureProtocolFeatures | kFeatureLogAll));
  }
  static bool is_marked(const UniqueFd& log, Gpa address) {
    auto bits = Mapping::shared_file(log.get(), FileOffset(0), kLogBytes, Mapping::Access::kRead);
    EXPECT_TRUE(bits.has_value());
    return mem::DirtyLog(std::move(*bits)).is_marked(Gpn::containing(address));
  }
  /// Sends a chain with a page of its own; returns when the device holds it.
  SharedRange send_page() {
    const SharedRange piece = *memory_.allocate(4096, 4096);
    send(piece);
    std::size_t count = 0;
    const auto until = std::chrono::steady_clock::now() + test::kLimit;
    while (count == 0 && std::chrono::steady_clock::now() < until) {
      with_handler([&](test::IdleQueue& handler) { count = handler.count(); });
    }
    EXPECT_NE(count, 0u);
    return piece;
  }
  /// As after a write by the kernel: the mark follows the bytes.
  void write_and_complete(Gpa to) {
    with_handler([&](test::IdleQueue& handler) {
      handler.finish([&](const virtio::PoppedChain& taken) {
        const auto range = mem::AddressRange::from_checked(to, 4096);
        EXPECT_TRUE(taken.memory().mark_written(range));
      });
    });
    EXPECT_TRUE(is_completed());
  }
};

TEST_F(BackendLogTest, Rule42ARequestInFlightWhenLoggingBeginsIsMarked) {
  const UniqueFd log = make_log();
  const SharedRange page = send_page();
  use(log);
  switch_on();
  EXPECT_FALSE(is_marked(log, page.gpa));
  write_and_complete(page.gpa);
  EXPECT_TRUE(is_marked(log, page.gpa));
}

TEST_F(BackendLogTest, Rule42ARequestInFlightIsMarkedInTheLogOfItsCompletion) {
  const UniqueFd first = make_log();
  const UniqueFd second = make_log();
  use(first);
  switch_on();
  const SharedRange page = send_page();
  use(second);
  write_and_complete(page.gpa);
  EXPECT_FALSE(is_marked(first, page.gpa));
  EXPECT_TRUE(is_marked(second, page.gpa));
}

TEST_F(BackendLogTest, Rule42ARequestOnTheEarlierMemoryTableIsMarked) {
  const UniqueFd log = make_log();
  const SharedRange page = send_page();
  const auto region = memory_.region();
  ASSERT_TRUE(frontend_->set_mem_table(std::span(&region, 1)));
  use(log);
  switch_on();
  ASSERT_TRUE(frontend_->set_mem_table(std::span(&region, 1)));
  write_and_complete(page.gpa);
  EXPECT_TRUE(is_marked(log, page.gpa));
}

TEST_F(BackendLogTest, Rule42AStoppedRingHasMarkedAllItsWrites) {
  const UniqueFd log = make_log();
  use(log);
  switch_on();
  ASSERT_TRUE(queue_->set_logged(*frontend_, true));
  const SharedRange page = send_page();
  with_handler([&](test::IdleQueue& handler) {
    handler.holds = false;
    handler.finish([&](const virtio::PoppedChain& taken) {
      EXPECT_TRUE(taken.memory().fill(page.gpa, std::byte{1}, 4096));
    });
  });
  ASSERT_TRUE(queue_->stop(*frontend_).has_value());
  EXPECT_TRUE(is_marked(log, page.gpa));
  EXPECT_TRUE(is_marked(log, queue_->used_ring_address()));
}

}  // namespace
}  // namespace guestio::vhost
