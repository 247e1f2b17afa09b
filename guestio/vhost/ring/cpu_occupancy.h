// SPDX-License-Identifier: MIT
#pragma once

namespace guestio::vhost {

/// Says whether threads of this process that look for work share a processor. One that looks in
/// vain there takes the time of one that has work, and is better off making room. Only for threads
/// of our own: whoever else runs there would keep the processor for milliseconds.
///
/// The processor is the one that a thread woke up on: a hint, which may be out of date.
/// Threads: one each; what they have in common is a counter for each processor.
class CpuOccupancy {
 public:
  CpuOccupancy() noexcept = default;
  CpuOccupancy(const CpuOccupancy&) = delete;
  CpuOccupancy& operator=(const CpuOccupancy&) = delete;
  ~CpuOccupancy() { leave(); }

  /// The thread is awake. Again: nothing.
  void enter() noexcept;
  /// It sleeps. Again: nothing.
  void leave() noexcept;
  /// Whether no other thread is awake on its processor. Requires: it has entered.
  [[nodiscard]] bool is_alone() const noexcept;

 private:
  static constexpr int kNowhere = -1;
  int processor_ = kNowhere;
};

}  // namespace guestio::vhost
