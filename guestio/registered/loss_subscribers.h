// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "guestio/uring/loop.h"

/// Rings that hold registrations, and how they hear of lost regions.
namespace guestio::registered {

/// Holder of registrations on one loop. A ring without operations meets no lost page; this callback
/// has it unregister all the same.
///
/// Threads: the loop's.
class LossSubscriber {
 public:
  explicit LossSubscriber(uring::Loop& loop) : loop_(loop) {}
  LossSubscriber(const LossSubscriber&) = delete;
  LossSubscriber& operator=(const LossSubscriber&) = delete;
  /// A region was lost: calls MemoryRegistry::unregister_lost() for all of its registrations.
  virtual void on_region_lost() noexcept = 0;

 protected:
  ~LossSubscriber() = default;

 private:
  friend class LossSubscribers;
  uring::Loop& loop_;
  const std::shared_ptr<const int> life_ = std::make_shared<const int>();
};

/// The subscribers of one registry.
///
/// Threads: notify() any; the others the subscriber's loop's, which is also where it ends.
class LossSubscribers {
 public:
  void subscribe(LossSubscriber& subscriber);
  void unsubscribe(LossSubscriber& subscriber) noexcept;
  /// Posts on_region_lost() to each loop.
  void notify();

 private:
  std::mutex mutex_;
  std::vector<LossSubscriber*> subscribers_;
};

}  // namespace guestio::registered
