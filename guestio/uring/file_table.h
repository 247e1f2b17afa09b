// SPDX-License-Identifier: MIT
#pragma once

#include <vector>

#include "guestio/uring/file.h"
#include "guestio/uring/ring.h"

namespace guestio::uring {

/// The ring's table of registered files. Registration is an optimisation: every failure falls back
/// to the plain descriptor.
/// Threads: the ring's.
class FileTable {
 public:
  /// Registers a sparse table of `slots`. If the kernel refuses, the table has no slots.
  FileTable(Ring& ring, unsigned slots) noexcept;

  /// Registers `fd`, which the caller keeps. Returns a plain File(fd) if no slot is free or the
  /// kernel refuses.
  [[nodiscard]] File add(int fd) noexcept;
  /// Frees the slot. Operations in flight keep the file open until they complete.
  void remove(File file) noexcept;

  [[nodiscard]] std::size_t free_slots() const noexcept { return free_.size(); }

 private:
  Ring& ring_;
  std::vector<int> free_;
};

}  // namespace guestio::uring
