// SPDX-License-Identifier: MIT
// A session that goes on in another backend, or does not: seen from its front-end.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

#include "guestio/vhost/session/backend_for_test.h"
#include "guestio/vhost/wire/descriptor_kind.h"

namespace guestio::vhost {
namespace {

using test::kLimit;

class SessionHandoverTest : public test::BackendFixture {
 protected:
  void SetUp() override {
    BackendFixture::SetUp();
    negotiate(kProtocolReplyAck | kProtocolStatus | kProtocolInflightShmfd);
    ASSERT_TRUE(frontend_->set_status(7));
  }
  void TearDown() override {
    BackendFixture::TearDown();
    if (!successor_) return;
    EXPECT_EQ(successor_gone_.get_future().wait_for(kLimit), std::future_status::ready);
    home_->call([this] { successor_.reset(); });
  }

  /// Has the session rest and its rings stop; the state, unless something is in the way.
  task::Task<> come_to_a_stop(task::StopToken limit) {
    auto resting = backend_->quiesce({}, {});
    const bool rests = co_await std::move(resting);
    EXPECT_TRUE(rests);
    auto pausing = backend_->drain(limit);
    obstacle_ = co_await std::move(pausing);
    if (!obstacle_) {
      auto suspending = backend_->freeze();
      co_await std::move(suspending);
      auto state = backend_->snapshot();
      EXPECT_TRUE(state.has_value() && state->has_value());
      state_ = std::move(**state);
    }
    stopped_.set_value();
  }
  void stop_session() {
    home_->call([this] { others_.spawn(come_to_a_stop(limit_.token())); });
    ASSERT_EQ(stopped_.get_future().wait_for(kLimit), std::future_status::ready);
  }
  task::Task<> go_on_with(Backend& backend, std::promise<void>& done) {
    auto going_on = backend.resume();
    co_await std::move(going_on);
    done.set_value();
  }
  void resume(Backend& backend) {
    std::promise<void> done;
    home_->call([&] { others_.spawn(go_on_with(backend, done)); });
    ASSERT_EQ(done.get_future().wait_for(kLimit), std::future_status::ready);
  }
  task::Task<> serve_successor() {
    auto serving = successor_->serve_restored();
    co_await std::move(serving);
    successor_gone_.set_value();
  }
  /// Another backend takes `state`. Returns what it says to it.
  Result<> restore(SessionState state) {
    Result<> adopted;
    home_->call([&] {
      auto backend = std::move(*Backend::create(
          {.home = home_->loop(), .device = device_, .threads = threads_}, 1,
          [](uring::Loop&, std::uint16_t) -> Result<std::unique_ptr<virtio::QueueHandler>> {
            return std::make_unique<test::IdleQueue>();
          }));
      adopted = backend->restore(std::move(state));
      if (adopted) successor_ = std::move(backend);
    });
    return adopted;
  }

  task::StopSource limit_;
  task::Scope others_;
  std::optional<Session::Obstacle> obstacle_;
  SessionState state_;
  std::promise<void> stopped_;
  std::unique_ptr<Backend> successor_;
  std::promise<void> successor_gone_;
};

TEST_F(SessionHandoverTest, AnotherBackendGoesOnWhereItWas) {
  start_ring();
  ASSERT_TRUE(is_served());
  stop_session();
  ASSERT_FALSE(obstacle_.has_value());
  EXPECT_TRUE(state_.rings[0].is_running);
  EXPECT_EQ(state_.rings[0].base, 1U);
  EXPECT_EQ(state_.status, 7);
  EXPECT_EQ(state_.memory.size(), 1U);
  ASSERT_TRUE(restore(std::move(state_)));
  // The first one's process would end here; it only stays away from the socket.
  resume(*successor_);
  home_->call([this] { others_.spawn(serve_successor()); });
  EXPECT_TRUE(is_served());
  EXPECT_EQ(frontend_->get_status(), 7U);
  ASSERT_TRUE(queue_->stop(*frontend_).has_value());
  // Both see it leave.
  ::shutdown(frontend_->socket().fd(), SHUT_RDWR);
  resume(*backend_);
}

TEST_F(SessionHandoverTest, Rule47PipesGoAlongAndNoKickIsLost) {
  start_ring();
  std::array<int, 2> kick{};
  std::array<int, 2> call{};
  ASSERT_EQ(::pipe2(kick.data(), O_CLOEXEC), 0);
  ASSERT_EQ(::pipe2(call.data(), O_CLOEXEC), 0);
  const std::array ends = {UniqueFd(kick[0]), UniqueFd(kick[1]), UniqueFd(call[0]),
                           UniqueFd(call[1])};
  ASSERT_TRUE(frontend_->set_vring_kick(0, kick[0]));
  ASSERT_TRUE(frontend_->set_vring_call(0, call[1]));
  const auto serve = [&] {
    const auto piece = *memory_.allocate(64, 64);
    const virtio::DriverSegment segment{piece.gpa, 64, virtio::Direction::kWritable};
    EXPECT_TRUE(queue_->ring().add(std::span(&segment, 1)).has_value());
    EXPECT_TRUE(queue_->ring().publish().has_value());
    EXPECT_EQ(::write(kick[1], "a kick!", 8), 8);
    std::optional<virtio::DriverUsed> used;
    while (!used) {
      std::uint64_t event = 0;
      ASSERT_EQ(::read(call[0], &event, sizeof event), 8);
      used = *queue_->ring().reap();
    }
  };
  serve();
  stop_session();
  ASSERT_FALSE(obstacle_.has_value());
  EXPECT_TRUE(is_pipe(state_.rings[0].kick.get()));
  EXPECT_TRUE(is_pipe(state_.rings[0].call.get()));
  ASSERT_TRUE(restore(std::move(state_)));
  resume(*successor_);
  home_->call([this] { others_.spawn(serve_successor()); });
  for (int i = 0; i < 20; ++i) serve();
  ::shutdown(frontend_->socket().fd(), SHUT_RDWR);
  resume(*backend_);
}

TEST_F(SessionHandoverTest, Rule47APipeGoesWithTheRunOfItsRing) {
  start_ring();
  std::array<int, 2> kick{};
  ASSERT_EQ(::pipe2(kick.data(), O_CLOEXEC), 0);
  const std::array ends = {UniqueFd(kick[0]), UniqueFd(kick[1])};
  ASSERT_TRUE(frontend_->set_vring_kick(0, kick[0]));
  ASSERT_TRUE(queue_->stop(*frontend_).has_value());
  stop_session();
  ASSERT_FALSE(obstacle_.has_value());
  EXPECT_FALSE(state_.rings[0].kick);
  resume(*backend_);
}

TEST_F(SessionHandoverTest, Rule27ARingThatBrokeStaysStoppedWhoeverGoesOn) {
  constexpr std::uint64_t kNeedsReset = 0x40;
  start_ring();
  const UniqueFd error(::eventfd(0, EFD_CLOEXEC));
  ASSERT_TRUE(frontend_->set_vring_err(0, error.get()));
  // A device that knows nothing of malformed chains.
  const Gpa memory = memory_.allocate(64, 64)->gpa;
  const std::array chain = {virtio::DriverSegment{memory, 1, virtio::Direction::kWritable},
                            virtio::DriverSegment{memory, 16, virtio::Direction::kReadable}};
  ASSERT_TRUE(queue_->ring().add(chain));
  ASSERT_TRUE(queue_->ring().publish());
  ASSERT_TRUE(queue_->kick());
  eventfd_t events = 0;
  ASSERT_EQ(::eventfd_read(error.get(), &events), 0);
  stop_session();
  ASSERT_FALSE(obstacle_.has_value());
  EXPECT_FALSE(state_.rings[0].is_running);
  EXPECT_FALSE(state_.rings[0].has_kick);
  EXPECT_EQ(state_.status & kNeedsReset, kNeedsReset);
  resume(*backend_);
  EXPECT_EQ(frontend_->get_status(), 7U | kNeedsReset);
}

TEST_F(SessionHandoverTest, TheSameBackendGoesOnWhereItWas) {
  start_ring();
  ASSERT_TRUE(is_served());
  stop_session();
  ASSERT_FALSE(obstacle_.has_value());
  resume(*backend_);
  EXPECT_TRUE(is_served());
  EXPECT_EQ(frontend_->get_status(), 7U);
}

TEST_F(SessionHandoverTest, WhatIsWorkedOnTooLongIsInTheWay) {
  start_ring();
  with_handler([](test::IdleQueue& handler) { handler.holds = true; });
  send(*memory_.allocate(64, 64));
  const auto is_taken = [this] {
    std::size_t count = 0;
    with_handler([&](test::IdleQueue& handler) { count = handler.count(); });
    return count != 0;
  };
  while (!is_taken()) std::this_thread::yield();
  home_->call([this] {
    others_.spawn(come_to_a_stop(limit_.token()));
    limit_.request_stop();
  });
  ASSERT_EQ(stopped_.get_future().wait_for(kLimit), std::future_status::ready);
  ASSERT_TRUE(obstacle_.has_value());
  EXPECT_TRUE(obstacle_->is_busy);
  resume(*backend_);
  with_handler([](test::IdleQueue& handler) {
    handler.holds = false;
    handler.finish([](virtio::PoppedChain&) {});
  });
  EXPECT_TRUE(is_answered());
  EXPECT_TRUE(is_served());
}

TEST_F(SessionHandoverTest, AStateThatMakesNoSenseIsRefused) {
  start_ring();
  ASSERT_TRUE(is_served());
  stop_session();
  const auto refused = [this](ErrorKind kind, auto spoil) {
    SessionState state;
    home_->call([&] { state = std::move(**backend_->snapshot()); });
    spoil(state);
    const auto adopted = restore(std::move(state));
    ASSERT_FALSE(adopted.has_value());
    EXPECT_EQ(adopted.error().kind, kind) << adopted.error().to_string();
  };
  const auto no_event = [] { return UniqueFd(::memfd_create("no-event", MFD_CLOEXEC)); };
  refused(ErrorKind::kUnsupported, [](auto& state) { state.features = ~std::uint64_t{0}; });
  refused(ErrorKind::kUnsupported, [](auto& state) { state.protocol_features = 1ULL << 63; });
  refused(ErrorKind::kUnsupported,
          [](auto& state) { state.rings[0].features = ~std::uint64_t{0}; });
  refused(ErrorKind::kPeerFault, [](auto& state) { state.rings.clear(); });
  refused(ErrorKind::kPeerFault, [](auto& state) { state.rings[0].size = 3; });
  refused(ErrorKind::kPeerFault, [](auto& state) { state.rings[0].base = 65536; });
  refused(ErrorKind::kPeerFault, [](auto& state) { state.rings[0].addresses.reset(); });
  refused(ErrorKind::kPeerFault, [](auto& state) { state.rings[0].addresses->used = 1; });
  refused(ErrorKind::kPeerFault, [](auto& state) { state.rings[0].has_kick = false; });
  refused(ErrorKind::kPeerFault, [&](auto& state) { state.rings[0].kick = no_event(); });
  refused(ErrorKind::kPeerFault, [&](auto& state) { state.rings[0].inband.call = no_event(); });
  refused(ErrorKind::kPeerFault, [&](auto& state) { state.log_event = no_event(); });
  refused(ErrorKind::kPeerFault, [](auto& state) { state.partial_message.bytes.resize(5000); });
  refused(ErrorKind::kPeerFault,
          [&](auto& state) { state.back_channel = BackChannelState{.socket = no_event()}; });
  refused(ErrorKind::kMemoryFault, [](auto& state) { state.memory[0].description.size <<= 20; });
  refused(ErrorKind::kMemoryFault, [&](auto& state) {
    state.inflight = {{.mmap_size = 1, .mmap_offset = 0, .num_queues = 1, .queue_size = 16},
                      virtio::RingKind::kSplit,
                      no_event()};
  });
  resume(*backend_);
  EXPECT_TRUE(is_served());
}

}  // namespace
}  // namespace guestio::vhost
