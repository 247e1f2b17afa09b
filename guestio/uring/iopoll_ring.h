// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <memory>

#include "guestio/base/error.h"
#include "guestio/uring/loop.h"
#include "guestio/uring/operation.h"
#include "guestio/uring/ring.h"

namespace guestio::uring {

/// A second ring of a loop with polled completions (IORING_SETUP_IOPOLL), for direct reads and
/// writes on devices with polling queues. The loop does not sleep while an operation is in flight.
///
/// 1. Files on other devices complete with -EOPNOTSUPP, which is not a data error.
/// 2. The loop's registered files and buffers are not valid here: operations use plain descriptors
///    and plain memory.
/// 3. Operations cannot be cancelled.
///
/// Threads: the loop's. Lifetime: the loop outlives it; no operation is in flight at destruction
/// (checked).
class IopollRing final : private Deferred, private OperationOwner {
 public:
  /// Errors: as Ring::create().
  static Result<std::unique_ptr<IopollRing>> create(Loop& loop);
  IopollRing(const IopollRing&) = delete;
  IopollRing& operator=(const IopollRing&) = delete;
  ~IopollRing();

  /// As Loop::start(): submitted at the end of the batch; complete() is called from Loop::run().
  void start(Operation& operation) noexcept;
  [[nodiscard]] std::size_t in_flight() const noexcept { return in_flight_; }

 private:
  IopollRing(Loop& loop, Ring ring) noexcept : loop_(loop), ring_(std::move(ring)) {}
  void run() noexcept override;  // uring::Deferred

  Loop& loop_;
  Ring ring_;
  task::IntrusiveList<Operation> waiting_;  // for an SQE
  std::size_t in_flight_ = 0;               // waiting_ included
};

}  // namespace guestio::uring
