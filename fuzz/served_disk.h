// SPDX-License-Identifier: MIT
#pragma once

#include <sys/socket.h>

#include <array>
#include <future>
#include <memory>
#include <optional>
#include <utility>

#include "guestio/base/check.h"
#include "guestio/blk/block_device.h"
#include "guestio/blk/block_queue.h"
#include "guestio/disk/file/file_disk.h"
#include "guestio/task/scope.h"
#include "guestio/vhost/session/backend.h"
#include "testing/temporary.h"

namespace guestio::fuzz {

/// The two ends of a connection.
struct Connection {
  UniqueFd ours;
  UniqueFd theirs;

  static Connection make() {
    std::array<int, 2> ends{};
    GUESTIO_CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) == 0,
                  "a socket pair");
    return {UniqueFd(ends[0]), UniqueFd(ends[1])};
  }
};

/// An image in memory, served as guestio-blk does it, by threads that others may share. Never
/// destroyed: it lives as long as the fuzzer.
class ServedDisk {
 public:
  static constexpr std::uint64_t kBytes = std::uint64_t{1} << 20;

  ServedDisk(vhost::QueueThread& home, vhost::QueueThreads& threads, std::uint16_t queues)
      : home_(home),
        disk_(std::move(*disk::FileDisk::open({.path = image_.path()}))),
        device_({.disk = disk_->info(), .queues = queues, .serial = "fuzz"}) {
    home_.call([&] {
      backend_ = std::move(*vhost::Backend::create(
          {.home = home_.loop(), .device = device_, .threads = threads}, queues,
          [this](uring::Loop& loop,
                 std::uint16_t) -> Result<std::unique_ptr<virtio::QueueHandler>> {
            auto channel = disk_->open_channel(loop, ByteCount(65536));
            if (!channel) return fail(channel.error());
            return std::make_unique<blk::BlockQueue>(device_, std::move(*channel));
          }));
    });
  }

  [[nodiscard]] int image() const noexcept { return image_.fd(); }

  /// Serves the front-end at the other end; ready once it is disconnected after draining.
  std::future<void> serve(UniqueFd socket) {
    std::promise<void> left;
    auto end = left.get_future();
    home_.loop().post([this, socket = std::move(socket), left = std::move(left)]() mutable {
      serving_.spawn(serve_one(std::move(socket), std::move(left)));
    });
    return end;
  }

 private:
  task::Task<> serve_one(UniqueFd socket, std::promise<void> left) {
    auto serving = backend_->serve_one(std::move(socket));
    co_await std::move(serving);
    left.set_value();
  }

  vhost::QueueThread& home_;
  testing::MemoryFile image_{kBytes};
  std::unique_ptr<disk::FileDisk> disk_;
  blk::BlockDevice device_;
  std::unique_ptr<vhost::Backend> backend_;
  task::Scope serving_;
};

}  // namespace guestio::fuzz
