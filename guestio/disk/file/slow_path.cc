// SPDX-License-Identifier: MIT
#include "guestio/disk/file/slow_path.h"

namespace guestio::disk {

task::Task<> SlowPath::serve(Io& io) {
  Result<> result;
  switch (io.kind) {
    case IoKind::kRead:
    case IoKind::kWrite: result = co_await transfers_.transfer(io); break;
    case IoKind::kFlush: result = co_await flushes_.flush(); break;
    case IoKind::kDiscard: result = co_await ranges_.discard(io); break;
    case IoKind::kWriteZeroes: result = co_await ranges_.write_zeroes(io); break;
    case IoKind::kSecureErase: result = co_await ranges_.secure_erase(io); break;
  }
  io.on_done(result);
}

}  // namespace guestio::disk
