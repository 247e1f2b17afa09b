// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <memory>

#include "guestio/base/error.h"
#include "guestio/uring/loop.h"
#include "guestio/uring/operation.h"
#include "guestio/uring/ring.h"

namespace guestio::uring {

/// A ring beside a loop's own whose operations are finished by looking for them and not by an
/// interrupt of the device (IORING_SETUP_IOPOLL): direct reads and writes of files on devices that
/// have queues for it. While one is in flight the loop does not sleep.
///
/// 1. What a file without such a device answers is -EOPNOTSUPP, which is not an error of the data.
/// 2. The loop's tables mean nothing here: operations name plain files and plain memory.
/// 3. Operations cannot be cancelled.
///
/// Threads: the loop's. Lifetime: the loop outlives it; nothing is in flight when it goes
/// (checked).
class IopollRing final : private Deferred {
 public:
  /// Errors: as Ring::create().
  static Result<std::unique_ptr<IopollRing>> create(Loop& loop);
  IopollRing(const IopollRing&) = delete;
  IopollRing& operator=(const IopollRing&) = delete;
  ~IopollRing();

  /// As Loop::start(): submitted at the end of the batch, complete() is called from Loop::run().
  void start(Operation& operation) noexcept;
  [[nodiscard]] std::size_t in_flight() const noexcept { return in_flight_; }

 private:
  IopollRing(Loop& loop, Ring ring) noexcept : loop_(loop), ring_(std::move(ring)) {}
  void run() noexcept override;  // uring::Deferred
  [[nodiscard]] bool try_prepare(Operation& operation) noexcept;

  Loop& loop_;
  Ring ring_;
  task::IntrusiveList<Operation> waiting_;  // for a submission entry
  std::size_t in_flight_ = 0;               // those that wait included
};

}  // namespace guestio::uring
