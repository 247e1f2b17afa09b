// SPDX-License-Identifier: MIT
// Post-copy migration, from the front-end's end of the socket.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstring>
#include <thread>
#include <vector>

#include "guestio/vhost/session/backend_for_test.h"

namespace guestio::vhost {
namespace {

constexpr ProtocolBits kPostcopyProtocol = kProtocolReplyAck | kProtocolPagefault;
constexpr auto kAdvise = std::to_underlying(FrontendRequest::kPostcopyAdvise);
constexpr auto kListen = std::to_underlying(FrontendRequest::kPostcopyListen);
constexpr auto kEnd = std::to_underlying(FrontendRequest::kPostcopyEnd);
constexpr auto kTable = std::to_underlying(FrontendRequest::kSetMemTable);
constexpr auto kAdd = std::to_underlying(FrontendRequest::kAddMemReg);

class PostcopyTest : public test::BackendFixture {
 protected:
  PostcopyTest() { offers_post_copy_ = true; }
  void SetUp() override {
    BackendFixture::SetUp();
    if (!Userfaultfd::create()) GTEST_SKIP() << "no userfaultfd for this user";
  }

  /// Sends POSTCOPY_ADVISE and POSTCOPY_LISTEN.
  void listen(ProtocolBits more = 0) {
    ASSERT_TRUE(frontend_->negotiate(0, kPostcopyProtocol | more).has_value());
    Message answer;
    ASSERT_TRUE(frontend_->send_and_receive(kAdvise, {}, {}, answer));
    EXPECT_EQ(answer.header.size, 0u);
    ASSERT_EQ(answer.descriptors.size(), 1u);
    faults_ = answer.descriptors.take(0);
    ASSERT_TRUE(frontend_->send_message(kListen));
  }
  /// Sends a memory message of `head` and the region. All pages have arrived.
  void send_memory(std::uint32_t request, std::uint64_t head) {
    std::memset(memory_.whole().host, 1, memory_.whole().size);
    const auto region = memory_.region();
    std::array<std::byte, sizeof head + sizeof region.where> bytes;
    std::memcpy(bytes.data(), &head, sizeof head);
    std::memcpy(bytes.data() + sizeof head, &region.where, sizeof region.where);
    Message answer;
    ASSERT_TRUE(frontend_->send_and_receive(request, bytes, std::span(&region.fd, 1), answer));
    ASSERT_EQ(answer.header.size, bytes.size());
    MemoryRegion replied{};
    std::memcpy(&replied, answer.bytes.data() + sizeof head, sizeof replied);
    EXPECT_EQ(replied.guest_address, region.where.guest_address);
    backend_address_ = replied.user_address;
    // Like QEMU, requests an acknowledgement without waiting for it.
    const std::uint64_t is_fine = 0;
    ASSERT_TRUE(frontend_->socket().send(request, kMessageVersion | kMessageNeedReply,
                                         std::as_bytes(std::span(&is_fine, 1)), {},
                                         std::chrono::steady_clock::now() + test::kLimit));
  }
  /// Sends a chain with a missing page, and has the device read it in a thread.
  void read_missing_page() {
    with_handler([](test::IdleQueue& handler) { handler.holds = true; });
    page_ = *memory_.allocate(4096, 4096);
    ASSERT_EQ(::fallocate(memory_.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                          page_.host - memory_.whole().host, 4096),
              0);
    send(page_);
    std::size_t count = 0;
    const auto until = std::chrono::steady_clock::now() + test::kLimit;
    while (count == 0 && std::chrono::steady_clock::now() < until) {
      with_handler([&](test::IdleQueue& handler) { count = handler.count(); });
    }
    ASSERT_NE(count, 0u);
    device_thread_ = std::jthread([this] {
      with_handler([this](test::IdleQueue& handler) {
        handler.finish([this](const virtio::PoppedChain& taken) {
          EXPECT_TRUE(taken.memory().read(page_.gpa, std::as_writable_bytes(std::span(seen_))));
        });
      });
    });
  }
  /// Waits for an access to a missing page and returns its address.
  std::uint64_t wait_for_fault() {
    pollfd ready{faults_.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&ready, 1, std::chrono::milliseconds(test::kLimit).count()), 1);
    uffd_msg message{};
    EXPECT_EQ(::read(faults_.get(), &message, sizeof message),
              static_cast<ssize_t>(sizeof message));
    EXPECT_EQ(message.event, UFFD_EVENT_PAGEFAULT);
    return message.arg.pagefault.address & ~std::uint64_t{4095};
  }
  [[nodiscard]] std::uint64_t backend_address_of(const SharedRange& piece) const {
    return backend_address_ + static_cast<std::uint64_t>(piece.host - memory_.whole().host);
  }

  UniqueFd faults_;
  std::uint64_t backend_address_ = 0;
  SharedRange page_;
  std::array<std::uint64_t, 2> seen_{7, 7};
  std::jthread device_thread_;
};

TEST_F(PostcopyTest, AnAccessToAMissingPageWaitsForItsContent) {
  listen();
  send_memory(kTable, 1);
  start_ring();
  read_missing_page();
  ASSERT_EQ(wait_for_fault(), backend_address_of(page_));
  const std::vector<std::uint64_t> content(512, 42);
  uffdio_copy copy{};
  copy.dst = backend_address_of(page_);
  copy.src = reinterpret_cast<std::uintptr_t>(content.data());
  copy.len = 4096;
  ASSERT_EQ(::ioctl(faults_.get(), UFFDIO_COPY, &copy), 0);
  device_thread_.join();
  EXPECT_TRUE(is_completed());
  EXPECT_EQ(seen_, (std::array<std::uint64_t, 2>{42, 42}));
  Message answer;
  ASSERT_TRUE(frontend_->send_and_receive(kEnd, {}, {}, answer));
  EXPECT_EQ(answer.as<std::uint64_t>(), 0u);
  EXPECT_TRUE(frontend_->get_features().has_value()) << "an unexpected reply was sent";
}

TEST_F(PostcopyTest, AnAccessToAMemorySlotWaitsToo) {
  listen(kProtocolConfigureMemSlots);
  send_memory(kAdd, 0);
  start_ring();
  read_missing_page();
  EXPECT_EQ(wait_for_fault(), backend_address_of(page_));
  Message answer;
  // Pages still missing at the end are zeroes.
  ASSERT_TRUE(frontend_->send_and_receive(kEnd, {}, {}, answer));
  device_thread_.join();
  EXPECT_EQ(seen_, (std::array<std::uint64_t, 2>{0, 0}));
  EXPECT_TRUE(is_completed());
}

TEST_F(PostcopyTest, ADisconnectReleasesAllWaits) {
  listen();
  send_memory(kTable, 1);
  start_ring();
  read_missing_page();
  (void)wait_for_fault();
  // The userfaultfd stays open at this end.
  queue_.reset();
  frontend_.reset();
  device_thread_.join();
  EXPECT_EQ(seen_, (std::array<std::uint64_t, 2>{0, 0}));
}

TEST_F(PostcopyTest, ListenWithoutAdviseIsRefused) {
  ASSERT_TRUE(frontend_->negotiate(0, kPostcopyProtocol).has_value());
  EXPECT_FALSE(frontend_->send_message(kListen));
  EXPECT_TRUE(frontend_->get_features().has_value());
}

using NoPostcopyTest = test::BackendFixture;

TEST_F(NoPostcopyTest, PostCopyIsNotOfferedByDefault) {
  const auto negotiated = frontend_->negotiate(0, kPostcopyProtocol);
  ASSERT_TRUE(negotiated.has_value());
  EXPECT_EQ(negotiated->offered_protocol & kProtocolPagefault, 0u);
  EXPECT_FALSE(frontend_->send_message(kAdvise));
  EXPECT_FALSE(frontend_->send_message(kListen));
  EXPECT_TRUE(frontend_->get_features().has_value());
}

}  // namespace
}  // namespace guestio::vhost
