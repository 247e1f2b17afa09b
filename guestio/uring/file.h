// SPDX-License-Identifier: MIT
#pragma once

#include <liburing.h>

namespace guestio::uring {

/// A file as operations name it: a plain descriptor, and the slot of the loop's table when it is
/// registered there (Loop::register_file()), which saves the kernel a look-up for each operation.
/// Does not own the descriptor. Cheap to copy; a slot means something on its own loop only.
class File {
 public:
  constexpr File() noexcept = default;
  constexpr explicit File(int fd) noexcept : fd_(fd) {}

  /// The plain descriptor, registered or not; -1 when there is none.
  [[nodiscard]] constexpr int fd() const noexcept { return fd_; }
  [[nodiscard]] constexpr bool is_registered() const noexcept { return slot_ >= 0; }

  /// Names this file in `entry`.
  void apply_to(io_uring_sqe& entry) const noexcept {
    entry.fd = fd_;
    if (!is_registered()) return;
    entry.fd = slot_;
    entry.flags |= IOSQE_FIXED_FILE;
  }

 private:
  friend class FileTable;
  constexpr File(int fd, int slot) noexcept : fd_(fd), slot_(slot) {}

  int fd_ = -1;
  int slot_ = -1;
};

}  // namespace guestio::uring
