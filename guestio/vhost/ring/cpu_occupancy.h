// SPDX-License-Identifier: MIT
#pragma once

namespace guestio::vhost {

/// Tells whether polling threads of this process share a processor. An empty poll there takes time
/// from a thread with work, so the thread should yield. Only threads of this process count: any
/// other would keep the processor for milliseconds.
///
/// The processor is that of the thread's last wake-up: a hint, which may be out of date.
/// Threads: one per object; the objects share a counter per processor.
class CpuOccupancy {
 public:
  CpuOccupancy() noexcept = default;
  CpuOccupancy(const CpuOccupancy&) = delete;
  CpuOccupancy& operator=(const CpuOccupancy&) = delete;
  ~CpuOccupancy() { leave(); }

  /// The thread is awake. Idempotent.
  void enter() noexcept;
  /// The thread sleeps. Idempotent.
  void leave() noexcept;
  /// Whether no other thread is awake on its processor. Requires: enter().
  [[nodiscard]] bool is_alone() const noexcept;

 private:
  static constexpr int kNowhere = -1;
  int processor_ = kNowhere;
};

}  // namespace guestio::vhost
