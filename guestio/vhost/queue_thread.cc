// SPDX-License-Identifier: MIT
#include "guestio/vhost/queue_thread.h"

#include <fmt/format.h>
#include <pthread.h>

#include <future>

#include "guestio/base/check.h"

namespace guestio::vhost {

Result<std::unique_ptr<QueueThread>> QueueThread::start(std::uint16_t index,
                                                        const QueueHandlerFactory& make_handler) {
  std::unique_ptr<QueueThread> self(new QueueThread());
  std::promise<Result<>> ready;
  auto started = ready.get_future();
  self->thread_ = std::thread([&, thread = self.get()] {
    thread->main(index, make_handler, [&ready](Result<> result) { ready.set_value(result); });
  });
  if (auto result = started.get(); !result) return fail(result.error());
  return self;
}

QueueThread::~QueueThread() {
  // Without a loop the thread could not start, and has ended or is about to.
  if (loop_) loop_->stop();
  may_end_.release();
  if (thread_.joinable()) thread_.join();
}

void QueueThread::main(std::uint16_t index, const QueueHandlerFactory& make_handler,
                       std::move_only_function<void(Result<>)> ready) {
  ::pthread_setname_np(::pthread_self(), fmt::format("queue-{}", index).c_str());
  auto loop = uring::Loop::create({});
  if (!loop) return ready(fail(loop.error()));
  auto handler = make_handler(**loop, index);
  if (!handler) return ready(fail(handler.error()));
  loop_ = std::move(*loop);
  handler_ = std::move(*handler);
  ready({});
  loop_->run();
  may_end_.acquire();
  GUESTIO_CHECK(vring_ == nullptr, "no ring on a queue's thread that ends");
  handler_.reset();
  loop_.reset();
}

}  // namespace guestio::vhost
