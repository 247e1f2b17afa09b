// SPDX-License-Identifier: MIT
#include "guestio/registered/loss_subscribers.h"

namespace guestio::registered {

void LossSubscribers::subscribe(LossSubscriber& subscriber) {
  const std::scoped_lock lock(mutex_);
  subscribers_.push_back(&subscriber);
}

void LossSubscribers::unsubscribe(LossSubscriber& subscriber) noexcept {
  const std::scoped_lock lock(mutex_);
  std::erase(subscribers_, &subscriber);
}

void LossSubscribers::notify() {
  const std::scoped_lock lock(mutex_);
  for (LossSubscriber* const subscriber : subscribers_) {
    // The subscriber may end before its loop runs this.
    subscriber->loop_.post([subscriber, life = std::weak_ptr(subscriber->life_)] {
      if (!life.expired()) subscriber->on_region_lost();
    });
  }
}

}  // namespace guestio::registered
