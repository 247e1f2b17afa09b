// SPDX-License-Identifier: MIT
#include "guestio/uring/file_table.h"

namespace guestio::uring {

FileTable::FileTable(Ring& ring, unsigned slots) noexcept : ring_(ring) {
  if (slots == 0 || ::io_uring_register_files_sparse(ring.raw(), slots) != 0) return;
  free_.reserve(slots);
  for (unsigned slot = slots; slot > 0; --slot) free_.push_back(static_cast<int>(slot - 1));
}

File FileTable::add(int fd) noexcept {
  if (fd < 0 || free_.empty()) return File(fd);
  const int slot = free_.back();
  if (::io_uring_register_files_update(ring_.raw(), static_cast<unsigned>(slot), &fd, 1) != 1) {
    return File(fd);
  }
  free_.pop_back();
  return File::registered(fd, slot);
}

void FileTable::remove(File file) noexcept {
  if (!file.is_registered()) return;
  const int none = -1;
  const auto slot = static_cast<unsigned>(file.slot());
  const int updated = ::io_uring_register_files_update(ring_.raw(), slot, &none, 1);
  // After a failure the slot still holds the file and is never reused.
  if (updated == 1) free_.push_back(file.slot());
}

}  // namespace guestio::uring
