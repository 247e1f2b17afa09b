// SPDX-License-Identifier: MIT
#pragma once

#include <vector>

#include "guestio/uring/file.h"
#include "guestio/uring/ring.h"

namespace guestio::uring {

/// The ring's table of registered files. Registration is an optimisation: whatever stands in its
/// way, the answer is the plain descriptor.
/// Threads: the ring's.
class FileTable {
 public:
  /// Reserves `slots` in the kernel; a kernel that refuses leaves a table without any.
  FileTable(Ring& ring, unsigned slots) noexcept;

  /// Registers `fd`, which stays the caller's; gives File(fd) when no slot is free or the kernel
  /// refuses.
  [[nodiscard]] File add(int fd) noexcept;
  /// Frees the slot. Operations in flight keep the file open until they are done.
  void remove(File file) noexcept;

  [[nodiscard]] std::size_t free_slots() const noexcept { return free_.size(); }

 private:
  Ring& ring_;
  std::vector<int> free_;
};

}  // namespace guestio::uring
