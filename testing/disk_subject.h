// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "guestio/disk/disk.h"

namespace guestio::testing {

/// A disk under test with one channel and its event loop.
class DiskSubject {
 public:
  virtual ~DiskSubject() = default;
  [[nodiscard]] virtual const disk::DiskInfo& info() const = 0;
  [[nodiscard]] virtual disk::Channel& channel() = 0;
  /// Runs requests until `is_done`.
  virtual void run_until(const std::function<bool()>& is_done) = 0;
};

struct DiskKind {
  std::string name;
  std::function<std::unique_ptr<DiskSubject>()> make;  ///< nullptr: not available on this machine
};

/// A request with extents in the test's guest memory.
class TestIo final : public disk::Io {
 public:
  std::vector<mem::AddressRange> extents;
  std::optional<Result<>> result;
  int times_done = 0;

  void on_done(Result<> done) noexcept override {
    result = done;
    ++times_done;
  }
};

}  // namespace guestio::testing
