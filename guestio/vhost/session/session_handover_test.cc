// SPDX-License-Identifier: MIT
// A session taken over by another backend, or resumed by its own, from the front-end's end.
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
    EXPECT_EQ(successor_disconnected_.get_future().wait_for(kLimit), std::future_status::ready);
    home_->call([this] { successor_.reset(); });
  }

  /// Quiesces, drains and freezes the session and takes a snapshot, unless there is an obstacle.
  task::Task<> freeze_and_snapshot(task::StopToken limit) {
    auto resting = backend_->quiesce({}, {});
    const bool is_quiesced = co_await std::move(resting);
    EXPECT_TRUE(is_quiesced);
    obstacle_ = co_await backend_->drain(limit);
    if (!obstacle_) {
      co_await backend_->freeze();
      auto state = backend_->snapshot();
      EXPECT_TRUE(state.has_value() && state->has_value());
      state_ = std::move(**state);
    }
    stopped_.set_value();
  }
  void freeze_session() {
    home_->call([this] { others_.spawn(freeze_and_snapshot(limit_.token())); });
    ASSERT_EQ(stopped_.get_future().wait_for(kLimit), std::future_status::ready);
  }
  task::Task<> resume_and_notify(Backend& backend, std::promise<void>& done) {
    co_await backend.resume();
    done.set_value();
  }
  void resume(Backend& backend) {
    std::promise<void> done;
    home_->call([&] { others_.spawn(resume_and_notify(backend, done)); });
    ASSERT_EQ(done.get_future().wait_for(kLimit), std::future_status::ready);
  }
  task::Task<> serve_successor() {
    co_await successor_->serve_restored();
    successor_disconnected_.set_value();
  }
  /// Restores `state` in another backend. Returns the outcome.
  Result<> restore(SessionState state) {
    Result<> restored;
    home_->call([&] {
      auto backend = std::move(*Backend::create(
          {.home = home_->loop(), .device = device_, .threads = threads_}, 1,
          [](uring::Loop&, std::uint16_t) -> Result<std::unique_ptr<virtio::QueueHandler>> {
            return std::make_unique<test::IdleQueue>();
          }));
      restored = backend->restore(std::move(state));
      if (restored) successor_ = std::move(backend);
    });
    return restored;
  }

  task::StopSource limit_;
  task::Scope others_;
  std::optional<Session::Obstacle> obstacle_;
  SessionState state_;
  std::promise<void> stopped_;
  std::unique_ptr<Backend> successor_;
  std::promise<void> successor_disconnected_;
};

TEST_F(SessionHandoverTest, AnotherBackendResumesTheSession) {
  start_ring();
  ASSERT_TRUE(is_served());
  freeze_session();
  ASSERT_FALSE(obstacle_.has_value());
  EXPECT_TRUE(state_.rings[0].is_running);
  EXPECT_EQ(state_.rings[0].base, 1U);
  EXPECT_EQ(state_.status, 7);
  EXPECT_EQ(state_.memory.size(), 1U);
  ASSERT_TRUE(restore(std::move(state_)));
  // In a takeover the first process would end here; this backend only leaves the socket alone.
  resume(*successor_);
  home_->call([this] { others_.spawn(serve_successor()); });
  EXPECT_TRUE(is_served());
  EXPECT_EQ(frontend_->get_status(), 7U);
  ASSERT_TRUE(queue_->stop(*frontend_).has_value());
  // Both backends see the disconnect.
  ::shutdown(frontend_->socket().fd(), SHUT_RDWR);
  resume(*backend_);
}

TEST_F(SessionHandoverTest, Rule47PipesAreHandedOverAndNoKickIsLost) {
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
  freeze_session();
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

TEST_F(SessionHandoverTest, Rule47AStoppedRingHasNoKickPipe) {
  start_ring();
  std::array<int, 2> kick{};
  ASSERT_EQ(::pipe2(kick.data(), O_CLOEXEC), 0);
  const std::array ends = {UniqueFd(kick[0]), UniqueFd(kick[1])};
  ASSERT_TRUE(frontend_->set_vring_kick(0, kick[0]));
  ASSERT_TRUE(queue_->stop(*frontend_).has_value());
  freeze_session();
  ASSERT_FALSE(obstacle_.has_value());
  EXPECT_FALSE(state_.rings[0].kick);
  resume(*backend_);
}

TEST_F(SessionHandoverTest, Rule27ABrokenRingStaysStoppedAfterATakeover) {
  constexpr std::uint64_t kNeedsReset = 0x40;
  start_ring();
  const UniqueFd error(::eventfd(0, EFD_CLOEXEC));
  ASSERT_TRUE(frontend_->set_vring_err(0, error.get()));
  // The device cannot write a status into a malformed chain.
  const Gpa memory = memory_.allocate(64, 64)->gpa;
  const std::array chain = {virtio::DriverSegment{memory, 1, virtio::Direction::kWritable},
                            virtio::DriverSegment{memory, 16, virtio::Direction::kReadable}};
  ASSERT_TRUE(queue_->ring().add(chain));
  ASSERT_TRUE(queue_->ring().publish());
  ASSERT_TRUE(queue_->kick());
  eventfd_t events = 0;
  ASSERT_EQ(::eventfd_read(error.get(), &events), 0);
  freeze_session();
  ASSERT_FALSE(obstacle_.has_value());
  EXPECT_FALSE(state_.rings[0].is_running);
  EXPECT_FALSE(state_.rings[0].has_kick);
  EXPECT_EQ(state_.status & kNeedsReset, kNeedsReset);
  resume(*backend_);
  EXPECT_EQ(frontend_->get_status(), 7U | kNeedsReset);
}

TEST_F(SessionHandoverTest, TheSameBackendResumesTheSession) {
  start_ring();
  ASSERT_TRUE(is_served());
  freeze_session();
  ASSERT_FALSE(obstacle_.has_value());
  resume(*backend_);
  EXPECT_TRUE(is_served());
  EXPECT_EQ(frontend_->get_status(), 7U);
}

TEST_F(SessionHandoverTest, AChainInFlightForTooLongIsAnObstacle) {
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
    others_.spawn(freeze_and_snapshot(limit_.token()));
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
  EXPECT_TRUE(is_completed());
  EXPECT_TRUE(is_served());
}

TEST_F(SessionHandoverTest, AContradictoryStateIsRefused) {
  start_ring();
  ASSERT_TRUE(is_served());
  freeze_session();
  const auto refused = [this](ErrorKind kind, auto corrupt) {
    SessionState state;
    home_->call([&] { state = std::move(**backend_->snapshot()); });
    corrupt(state);
    const auto restored = restore(std::move(state));
    ASSERT_FALSE(restored.has_value());
    EXPECT_EQ(restored.error().kind, kind) << restored.error().to_string();
  };
  const auto not_an_eventfd = [] { return UniqueFd(::memfd_create("no-event", MFD_CLOEXEC)); };
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
  refused(ErrorKind::kPeerFault, [&](auto& state) { state.rings[0].kick = not_an_eventfd(); });
  refused(ErrorKind::kPeerFault,
          [&](auto& state) { state.rings[0].inband.call = not_an_eventfd(); });
  refused(ErrorKind::kPeerFault, [&](auto& state) { state.log_event = not_an_eventfd(); });
  refused(ErrorKind::kPeerFault, [](auto& state) { state.partial_message.bytes.resize(5000); });
  refused(ErrorKind::kPeerFault,
          [&](auto& state) { state.back_channel = BackChannelState{.socket = not_an_eventfd()}; });
  refused(ErrorKind::kMemoryFault, [](auto& state) { state.memory[0].description.size <<= 20; });
  refused(ErrorKind::kMemoryFault, [&](auto& state) {
    state.inflight = {{.mmap_size = 1, .mmap_offset = 0, .num_queues = 1, .queue_size = 16},
                      virtio::RingKind::kSplit,
                      not_an_eventfd()};
  });
  resume(*backend_);
  EXPECT_TRUE(is_served());
}

}  // namespace
}  // namespace guestio::vhost
