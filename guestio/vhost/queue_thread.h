// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <memory>
#include <semaphore>
#include <thread>

#include "guestio/base/error.h"
#include "guestio/uring/loop.h"
#include "guestio/vhost/vring.h"
#include "guestio/virtio/device.h"

namespace guestio::vhost {

/// Makes the device model's end of queue `index`; called on the queue's thread.
using QueueHandlerFactory = std::function<Result<std::unique_ptr<virtio::QueueHandler>>(
    uring::Loop& loop, std::uint16_t index)>;

/// The thread of one virtqueue: its ring, its way to the disk, and its vring while one runs. It
/// lives as long as the backend, so that a front-end that comes back finds it ready; it sleeps when
/// there is nothing to do.
///
/// Threads: start(), the destructor and loop().post() belong to the control thread; the rest to the
/// thread itself.
class QueueThread {
 public:
  /// Returns when the thread runs. Errors: those of the loop and of `make_handler`.
  static Result<std::unique_ptr<QueueThread>> start(std::uint16_t index,
                                                    const QueueHandlerFactory& make_handler);
  QueueThread(const QueueThread&) = delete;
  QueueThread& operator=(const QueueThread&) = delete;
  /// Requires: no vring.
  ~QueueThread();

  [[nodiscard]] uring::Loop& loop() noexcept { return *loop_; }
  [[nodiscard]] virtio::QueueHandler& handler() noexcept { return *handler_; }
  /// The ring that runs, or nothing. On the thread.
  [[nodiscard]] std::unique_ptr<Vring>& vring() noexcept { return vring_; }

 private:
  QueueThread() = default;
  void main(std::uint16_t index, const QueueHandlerFactory& make_handler,
            std::move_only_function<void(Result<>)> ready);

  // made and destroyed on the thread
  std::unique_ptr<uring::Loop> loop_;
  std::unique_ptr<virtio::QueueHandler> handler_;
  std::unique_ptr<Vring> vring_;

  // Released once nobody outside touches the loop any more: only then may it be destroyed.
  std::binary_semaphore may_end_{0};
  std::thread thread_;
};

}  // namespace guestio::vhost
