// SPDX-License-Identifier: MIT
#pragma once

#include <boost/intrusive/slist.hpp>

#include <cstdint>

#include "guestio/buf/bounce_account.h"
#include "guestio/buf/locked_io_buffers.h"
#include "guestio/disk/disk.h"
#include "guestio/uring/operation.h"

namespace guestio::disk {

class FileChannel;

/// The short way of a read or write that the file takes as it lies: one call on the guest's memory,
/// no coroutine, and no bounce memory but for reads that the kernel would copy slowly
/// (read_placement.h), while there is some at once. What does not fit, and what comes back short or
/// unwilling, goes the long way (FileChannel::serve()), from its beginning.
///
/// One object is one place for a request in flight; the channel keeps a pool of them.
/// Threads: the channel's.
class DirectTransfer final : private uring::Operation, public boost::intrusive::slist_base_hook<> {
 public:
  explicit DirectTransfer(FileChannel& channel) noexcept : channel_(channel) {}

  /// Starts `io` if it fits, and ends it with io.on_done(), perhaps before it returns. Returns
  /// false, with nothing done, when it does not.
  [[nodiscard]] bool try_start(Io& io) noexcept;

 private:
  void prepare(io_uring_sqe& entry) noexcept override;
  void complete(std::int32_t result, std::uint32_t flags) noexcept override;
  /// Takes bounce memory for a read that lies badly, if there is some.
  void bounce_read(bool is_call) noexcept;
  [[nodiscard]] std::int32_t call() noexcept;
  [[nodiscard]] std::int32_t call_once() const noexcept;
  /// Through bounce memory, in as many calls as it is smaller.
  [[nodiscard]] std::int32_t read_in_parts() noexcept;
  void finish(std::int32_t result) noexcept;

  [[nodiscard]] bool is_read() const noexcept { return io_->kind == IoKind::kRead; }
  [[nodiscard]] bool is_bounced() const noexcept { return bounce_.size() != 0; }
  [[nodiscard]] std::span<const buf::IoBuffer> segments() const noexcept {
    return is_bounced() ? bounce_.segments() : locked_.segments();
  }
  [[nodiscard]] int rw_flags() const noexcept;

  FileChannel& channel_;
  Io* io_ = nullptr;            // while in flight
  bool is_registered_ = false;  // the operation goes to registered memory
  bool is_polled_ = false;
  buf::LockedIoBuffers locked_;
  buf::TrackedBounceBuffer bounce_;  // of a read that lies badly
};

}  // namespace guestio::disk
