// SPDX-License-Identifier: MIT
// Kicks and calls through pipes, from the front-end's end of the socket.
#include "guestio/vhost/session/pipe_relay.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

#include "guestio/vhost/session/backend_for_test.h"
#include "guestio/vhost/session/userfaultfd.h"

namespace guestio::vhost::pipe_relay_test {
namespace {

using test::kLimit;

struct Pipe {
  Pipe() {
    std::array<int, 2> ends{};
    EXPECT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    output.reset(ends[0]);
    input.reset(ends[1]);
  }
  UniqueFd output;
  UniqueFd input;
};

class PipeTest : public test::BackendFixture {
 protected:
  void SetUp() override {
    BackendFixture::SetUp();
    negotiate(kProtocolReplyAck);
    start_ring();
  }
  /// Adds a chain to the ring without a kick.
  void add_chain() {
    const auto piece = *memory_.allocate(64, 64);
    const virtio::DriverSegment segment{piece.gpa, static_cast<std::uint32_t>(piece.size),
                                        virtio::Direction::kWritable};
    EXPECT_TRUE(queue_->ring().add(std::span(&segment, 1)).has_value());
    EXPECT_TRUE(queue_->ring().publish().has_value());
  }
  /// The next event in the pipe: 8 bytes.
  static std::uint64_t next_event(const UniqueFd& output) {
    pollfd wait{.fd = output.get(), .events = POLLIN, .revents = 0};
    EXPECT_EQ(::poll(&wait, 1, std::chrono::milliseconds(kLimit).count()), 1) << "no event";
    std::uint64_t value = 0;
    EXPECT_EQ(::read(output.get(), &value, sizeof value), static_cast<ssize_t>(sizeof value));
    return value;
  }
  static void kick(const UniqueFd& input) {
    const std::uint64_t one = 1;
    ASSERT_EQ(::write(input.get(), &one, sizeof one), static_cast<ssize_t>(sizeof one));
  }
  /// Fills the pipe and makes it blocking again.
  static void fill(const UniqueFd& input) {
    ASSERT_EQ(::fcntl(input.get(), F_SETFL, O_NONBLOCK), 0);
    const std::array<std::byte, 4096> bytes{};
    while (::write(input.get(), bytes.data(), bytes.size()) > 0) {
    }
    ASSERT_EQ(errno, EAGAIN);
    ASSERT_EQ(::fcntl(input.get(), F_SETFL, 0), 0);
  }
};

TEST_F(PipeTest, Rule47ACallDescriptorMayBeAPipe) {
  const Pipe call;
  ASSERT_TRUE(frontend_->set_vring_call(0, call.input.get()));
  EXPECT_EQ(next_event(call.output), 1u) << "an earlier call may be lost";
  for (int i = 0; i < 20; ++i) {
    add_chain();
    ASSERT_TRUE(queue_->kick());
    EXPECT_EQ(next_event(call.output), 1u);
    EXPECT_TRUE(queue_->ring().reap()->has_value()) << "the used entry precedes the call";
  }
}

TEST_F(PipeTest, Rule47AKickDescriptorMayBeAPipeAndIsDrained) {
  const Pipe kick_pipe;
  ASSERT_TRUE(frontend_->set_vring_kick(0, kick_pipe.output.get()));
  // More than the capacity of the pipe: the backend has to read it.
  for (int i = 0; i < 20'000; ++i) kick(kick_pipe.input);
  for (int i = 0; i < 20; ++i) {
    add_chain();
    kick(kick_pipe.input);
    ASSERT_TRUE(is_completed());
  }
}

TEST_F(PipeTest, Rule47AnErrorDescriptorMayBeAPipe) {
  const Pipe error;
  ASSERT_TRUE(frontend_->set_vring_err(0, error.input.get()));
  EXPECT_TRUE(is_served());
}

TEST_F(PipeTest, Rule47AFullCallPipeStallsNobody) {
  const Pipe call;
  fill(call.input);
  ASSERT_TRUE(frontend_->set_vring_call(0, call.input.get()));
  // The flag is the peer's to clear.
  ASSERT_EQ(::fcntl(call.input.get(), F_SETFL, 0), 0);
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(is_served());
}

TEST_F(PipeTest, Rule47ACallPipeWithoutAReaderRaisesNoSignal) {
  Pipe call;
  ASSERT_TRUE(frontend_->set_vring_call(0, call.input.get()));
  EXPECT_EQ(next_event(call.output), 1u);
  call.output.reset();
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(is_served());
  const Pipe another;
  ASSERT_TRUE(frontend_->set_vring_call(0, another.input.get()));
  EXPECT_EQ(next_event(another.output), 1u) << "the relay thread still writes";
}

TEST_F(PipeTest, Rule47AnEventfdReplacesAPipe) {
  const Pipe call;
  ASSERT_TRUE(frontend_->set_vring_call(0, call.input.get()));
  EXPECT_EQ(next_event(call.output), 1u);
  ASSERT_TRUE(frontend_->set_vring_call(0, queue_->call_fd()));
  const auto used = queue_->wait_for_call(kLimit);
  ASSERT_TRUE(used.has_value());
  EXPECT_TRUE(*used);
  EXPECT_TRUE(is_served());
}

TEST_F(PipeTest, Rule47DescriptorsThatCannotCarryEventsAreRefused) {
  const Pipe pipe;
  const UniqueFd file(::memfd_create("no-event", MFD_CLOEXEC));
  EXPECT_FALSE(frontend_->set_vring_call(0, pipe.output.get())) << "cannot be written";
  EXPECT_FALSE(frontend_->set_vring_kick(0, pipe.input.get())) << "cannot be read";
  EXPECT_FALSE(frontend_->set_vring_kick(0, file.get()));
  EXPECT_FALSE(frontend_->set_vring_call(0, file.get()));
  EXPECT_TRUE(is_served()) << "with its earlier descriptors";
}

/// Holds the lock of a pipe: by a write that waits in a page fault of its own.
class LockedPipe {
 public:
  explicit LockedPipe(const UniqueFd& input) {
    page_ = static_cast<std::byte*>(
        ::mmap(nullptr, kPageSize, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    faults_.reset(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC)));
    uffdio_api api{};
    api.api = UFFD_API;
    EXPECT_EQ(::ioctl(faults_.get(), UFFDIO_API, &api), 0);
    uffdio_register request{};
    request.range = {reinterpret_cast<std::uintptr_t>(page_), kPageSize};
    request.mode = UFFDIO_REGISTER_MODE_MISSING;
    EXPECT_EQ(::ioctl(faults_.get(), UFFDIO_REGISTER, &request), 0);
    writer_ = std::jthread([this, fd = input.get()] { (void)!::write(fd, page_, 8); });
    uffd_msg fault{};
    EXPECT_EQ(::read(faults_.get(), &fault, sizeof fault), static_cast<ssize_t>(sizeof fault));
  }
  LockedPipe(const LockedPipe&) = delete;
  LockedPipe& operator=(const LockedPipe&) = delete;
  ~LockedPipe() {
    uffdio_zeropage zero{};
    zero.range = {reinterpret_cast<std::uintptr_t>(page_), kPageSize};
    EXPECT_EQ(::ioctl(faults_.get(), UFFDIO_ZEROPAGE, &zero), 0);
    writer_ = {};
    ::munmap(page_, kPageSize);
  }

 private:
  std::byte* page_;
  UniqueFd faults_;
  std::jthread writer_;
};

TEST_F(PipeTest, Rule47ALockedPipeStallsNeitherTheRingNorTheNextFrontEnd) {
  if (!Userfaultfd::create()) GTEST_SKIP() << "no userfaultfd for this user";
  const Pipe call;
  ASSERT_TRUE(frontend_->set_vring_call(0, call.input.get()));
  EXPECT_EQ(next_event(call.output), 1u);
  const LockedPipe stalled(call.input);
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(is_served());
  // Messages and a disconnect are handled as well while the pipe is locked.
  EXPECT_TRUE(frontend_->get_features().has_value());
  queue_.reset();
  frontend_.reset();
  EXPECT_EQ(disconnected_.get_future().wait_for(kLimit), std::future_status::ready);
  disconnected_ = {};
  disconnected_.set_value();
}

TEST(PipeRelay, AKickPipeWithoutAWriterIsDropped) {
  const auto home = QueueThread::start({.name = "home", .polling = {}}).value();
  Pipe kick_pipe;
  std::optional<PipeRelay> relay;
  UniqueFd event;
  home->call([&] {
    relay.emplace(home->loop(), std::make_shared<RelayCount>());
    event = relay->open(0, RingEvent::kKick, std::move(kick_pipe.output)).value();
  });
  kick_pipe.input.reset();
  bool is_watched = true;
  while (is_watched) {
    home->call([&] { is_watched = static_cast<bool>(*relay->pipe_of(0, RingEvent::kKick)); });
  }
  home->call([&] { relay.reset(); });
}

TEST(RelayCount, LimitsTheThreadsOfABackend) {
  const auto count = std::make_shared<RelayCount>();
  std::vector<std::shared_ptr<void>> slots;
  for (unsigned i = 0; i < RelayCount::kMaxRelays; ++i) slots.push_back(RelayCount::acquire(count));
  EXPECT_TRUE(std::ranges::all_of(slots, [](const auto& slot) { return slot != nullptr; }));
  EXPECT_EQ(RelayCount::acquire(count), nullptr);
  slots.pop_back();
  EXPECT_NE(RelayCount::acquire(count), nullptr);
}

}  // namespace
}  // namespace guestio::vhost::pipe_relay_test
