// SPDX-License-Identifier: MIT
#pragma once

#include <boost/intrusive/list.hpp>

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "guestio/base/check.h"
#include "guestio/base/error.h"
#include "guestio/base/units.h"
#include "guestio/disk/disk.h"

namespace guestio::disk {

/// One command to the engine of a remote disk: a request, or a part of one. Its data lies in bounce
/// memory, which no guest sees: the engine may keep it until complete().
///
/// The hook is the engine's from submit() to complete(), for its table of commands in flight.
/// Threads: the channel's. Lifetime: made and destroyed by RemoteChannel.
class RemoteCommand : public boost::intrusive::list_base_hook<> {
 public:
  struct Work {
    IoKind kind = IoKind::kFlush;  ///< all but kSecureErase
    Durability durability = Durability::kCached;
    Unmap unmap = Unmap::kForbidden;  ///< of kWriteZeroes
    FileOffset offset{};
    std::uint64_t length = 0;     ///< a multiple of RemoteLimits::alignment
    std::span<std::byte> data{};  ///< `length` bytes: kRead fills them, kWrite sends them
  };

  explicit RemoteCommand(const Work& work) noexcept : work_(work) {}
  RemoteCommand(const RemoteCommand&) = delete;
  RemoteCommand& operator=(const RemoteCommand&) = delete;

  [[nodiscard]] const Work& work() const noexcept { return work_; }

  /// Ends the command, once. The object may be gone at return, and the thread may have submitted
  /// others.
  void complete(Result<> result) noexcept {
    GUESTIO_CHECK(!result_, "one completion of a remote command");
    result_ = result;
    if (waiting_) waiting_.resume();
  }

  // For RemoteChannel.
  [[nodiscard]] bool is_complete() const noexcept { return result_.has_value(); }
  void set_waiting(std::coroutine_handle<> waiting) noexcept { waiting_ = waiting; }
  [[nodiscard]] Result<> result() const noexcept { return *result_; }

  /// For the engine; RemoteChannel does not use it.
  std::uint64_t tag = 0;

 private:
  const Work work_;
  std::optional<Result<>> result_;
  std::coroutine_handle<> waiting_;
};

}  // namespace guestio::disk
