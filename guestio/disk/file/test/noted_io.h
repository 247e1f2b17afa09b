// SPDX-License-Identifier: MIT
#pragma once

#include "guestio/disk/disk.h"

namespace guestio::disk::test {

/// A request with its result, for tests.
struct NotedIo final : Io {
  void on_done(Result<> done) noexcept override { result = done; }
  Result<> result = fail(ErrorKind::kBusy, "not done");
};

}  // namespace guestio::disk::test
