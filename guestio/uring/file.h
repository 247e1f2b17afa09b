// SPDX-License-Identifier: MIT
#pragma once

#include <liburing.h>

namespace guestio::uring {

/// The file of an operation: a plain descriptor and, if registered (Loop::register_file()), its
/// slot in the loop's file table. A registered file saves the kernel a look-up per operation.
/// Does not own the descriptor. Cheap to copy. A slot is valid on its own loop only.
class File {
 public:
  constexpr File() noexcept = default;
  constexpr explicit File(int fd) noexcept : fd_(fd) {}
  /// Requires: `slot` of the ring's file table is `fd` (FileTable::add()).
  static constexpr File registered(int fd, int slot) noexcept { return {fd, slot}; }

  /// The plain descriptor, registered or not; -1 without one.
  [[nodiscard]] constexpr int fd() const noexcept { return fd_; }
  /// The slot of the file table; -1 for plain files.
  [[nodiscard]] constexpr int slot() const noexcept { return slot_; }
  [[nodiscard]] constexpr bool is_registered() const noexcept { return slot_ >= 0; }

  /// Sets the file of `entry`.
  void apply_to(io_uring_sqe& entry) const noexcept {
    entry.fd = fd_;
    if (!is_registered()) return;
    entry.fd = slot_;
    entry.flags |= IOSQE_FIXED_FILE;
  }

 private:
  constexpr File(int fd, int slot) noexcept : fd_(fd), slot_(slot) {}

  int fd_ = -1;
  int slot_ = -1;
};

}  // namespace guestio::uring
