// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <chrono>
#include <future>
#include <memory>
#include <optional>
#include <utility>

#include "guestio/task/scope.h"
#include "guestio/vhost/frontend/frontend.h"
#include "guestio/vhost/frontend/frontend_memory.h"
#include "guestio/vhost/frontend/frontend_queue.h"
#include "guestio/vhost/session/backend.h"

/// For tests only: a backend with a device without function, from the front-end's end of the
/// socket.
namespace guestio::vhost::test {

inline constexpr std::chrono::seconds kLimit(60);

class IdleDevice final : public virtio::Device {
 public:
  virtio::FeatureBits offered_features() const noexcept override { return 0; }
  std::size_t config_size() const noexcept override { return 8; }
  Result<> read_config(std::size_t, std::span<std::byte>) const override { return {}; }
  Result<> write_config(std::size_t, std::span<const std::byte>) override { return {}; }
  Result<> begin_use() override {
    if (is_unavailable) return fail(ErrorKind::kBusy, "the device");
    ++uses;
    return {};
  }
  void end_use() noexcept override { --uses; }

  bool is_unavailable = false;
  int uses = 0;
};

/// Completes each chain at once; while `holds` is set, in finish().
class IdleQueue final : public virtio::QueueHandler {
 public:
  void process(virtio::DeviceQueue& queue) noexcept override {
    while (count_ < held_.size() && queue.pop(held_[count_]) == virtio::PopResult::kChain) {
      if (holds) {
        ++count_;
      } else {
        queue.complete(held_[count_], 0);
      }
    }
    queue_ = &queue;
  }
  /// Runs `work` on each held chain and completes it.
  template <typename Work>
  void finish(Work work) {
    for (; count_ != 0; --count_) {
      work(held_[count_ - 1]);
      queue_->complete(held_[count_ - 1], 0);
    }
  }
  [[nodiscard]] std::size_t count() const noexcept { return count_; }

  bool holds = false;

 private:
  std::array<virtio::PoppedChain, 16> held_;
  std::size_t count_ = 0;
  virtio::DeviceQueue* queue_ = nullptr;
};

inline std::pair<UniqueFd, UniqueFd> make_sockets() {
  std::array<int, 2> ends{};
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

class BackendFixture : public ::testing::Test {
 protected:
  void SetUp() override {
    home_ = std::move(*QueueThread::start({.name = "home", .polling = {}}));
    threads_ = std::move(*QueueThreads::start({.count = 1, .polling = {}, .cpus = {}}));
    home_->call([this] {
      backend_ = std::move(*Backend::create(
          {.home = home_->loop(), .device = device_, .threads = threads_}, 1,
          [this](uring::Loop&, std::uint16_t) -> Result<std::unique_ptr<virtio::QueueHandler>> {
            auto handler = std::make_unique<IdleQueue>();
            handler_ = handler.get();
            return handler;
          }));
      if (offers_post_copy_) backend_->offer_post_copy();
      backend_->offer_memory_slots(memory_slots_);
    });
    auto [ours, theirs] = make_sockets();
    frontend_.emplace(Frontend::from_socket(std::move(ours), {.deadline = kLimit}));
    home_->call([this, &theirs] { serving_.spawn(serve(std::move(theirs))); });
  }
  void TearDown() override {
    queue_.reset();
    frontend_.reset();
    EXPECT_EQ(disconnected_.get_future().wait_for(kLimit), std::future_status::ready);
    home_->call([this] { backend_.reset(); });
  }

  task::Task<> serve(UniqueFd socket) {
    co_await backend_->serve_one(std::move(socket));
    disconnected_.set_value();
  }

  void negotiate(ProtocolBits protocol, std::uint64_t features = 0) {
    ASSERT_TRUE(frontend_->negotiate(features, protocol).has_value());
    const auto region = memory_.region();
    ASSERT_TRUE(frontend_->set_mem_table(std::span(&region, 1)));
  }
  void start_ring() {
    queue_.emplace(std::move(*FrontendQueue::start(*frontend_, memory_, {.index = 0, .size = 16})));
  }
  /// Sends the device a chain with the writable range `piece`.
  void send(const SharedRange& piece) {
    const virtio::DriverSegment segment{piece.gpa, static_cast<std::uint32_t>(piece.size),
                                        virtio::Direction::kWritable};
    EXPECT_TRUE(queue_->ring().add(std::span(&segment, 1)).has_value());
    EXPECT_TRUE(queue_->ring().publish().has_value());
    EXPECT_TRUE(queue_->kick());
  }
  /// Whether a chain is completed in time.
  bool is_completed() {
    const auto until = std::chrono::steady_clock::now() + kLimit;
    while (std::chrono::steady_clock::now() < until) {
      const auto used = queue_->ring().reap();
      if (!used || *used) return used.has_value();
      (void)queue_->wait_for_call(std::chrono::milliseconds(10));
    }
    return false;
  }
  bool is_served() {
    send(*memory_.allocate(64, 64));
    return is_completed();
  }
  /// Runs `function` with the queue's handler, on its thread.
  template <typename Function>
  void with_handler(Function function) {
    threads_.all().front()->call([&] { function(*handler_); });
  }

  bool offers_post_copy_ = false;
  std::size_t memory_slots_ = kMaxMemorySlots;
  IdleDevice device_;
  std::unique_ptr<QueueThread> home_;
  QueueThreads threads_;
  std::unique_ptr<Backend> backend_;
  IdleQueue* handler_ = nullptr;  // the queue thread's
  std::promise<void> disconnected_;
  task::Scope serving_;
  FrontendMemory memory_ = std::move(*FrontendMemory::create(std::size_t{1} << 20));
  std::optional<Frontend> frontend_;
  std::optional<FrontendQueue> queue_;
};

}  // namespace guestio::vhost::test
