// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "apps/guestio-load/disk_model.h"

/// The sequence of operations of verify.
namespace guestio::load {

enum class OperationKind { kRead, kWrite, kFlush, kDiscard, kWriteZeroes, kGetId };
inline constexpr std::size_t kOperationKinds = 6;
[[nodiscard]] const char* to_text(OperationKind kind) noexcept;

/// One request, with its extents reserved in the model.
struct Operation {
  OperationKind kind = OperationKind::kGetId;
  std::vector<DiskModel::Extent> extents = {};  ///< one for reads and writes, any number for ranges
  bool may_unmap = false;                       ///< kWriteZeroes
  std::uint64_t number = 0;                     ///< from 1

  [[nodiscard]] DiskModel::Access access() const noexcept {
    return kind == OperationKind::kRead ? DiskModel::Access::kRead : DiskModel::Access::kWrite;
  }
};

/// "read of 4096 bytes at offset 8192"
[[nodiscard]] std::string describe(const Operation& operation, const DiskModel& model);

/// A source of operations. Threads: any.
class OperationSource {
 public:
  enum class Draw {
    kOperation,  ///< drawn
    kBusy,       ///< all tried extents are reserved: retry
    kDone        ///< no more operations
  };

  virtual ~OperationSource() = default;
  virtual Draw draw(Operation& operation, std::mt19937_64& engine) = 0;
};

/// Reads or writes the whole region once, sequentially.
class SweepSource : public OperationSource {
 public:
  /// Requires: `kind` is kRead or kWrite; `chunk`, the blocks per request, is positive.
  SweepSource(DiskModel& model, OperationKind kind, std::uint64_t chunk)
      : model_(model), kind_(kind), chunk_(chunk) {}
  Draw draw(Operation& operation, std::mt19937_64& engine) override;

 private:
  DiskModel& model_;
  const OperationKind kind_;
  const std::uint64_t chunk_;
  std::atomic<std::uint64_t> chunks_drawn_ = 0;
};

/// Random operations.
class RandomSource : public OperationSource {
 public:
  /// Limits of one discard or write-zeroes request; unsupported if `segments` is 0.
  struct Ranges {
    std::uint64_t segments = 0;
    std::uint64_t blocks = 0;  ///< of each segment
  };
  /// The capabilities of the device.
  struct Capabilities {
    bool write = false;
    bool flush = false;
    Ranges discard = {};
    Ranges write_zeroes = {};
    std::uint64_t max_blocks = 1;  ///< of a read or write
  };

  RandomSource(DiskModel& model, const Capabilities& capabilities, std::uint64_t operations)
      : model_(model), capabilities_(capabilities), operations_(operations) {}
  Draw draw(Operation& operation, std::mt19937_64& engine) override;

 private:
  [[nodiscard]] OperationKind random_kind(std::mt19937_64& engine) const;
  bool reserve_extents(Operation& operation, std::mt19937_64& engine);
  bool reserve_one(Operation& operation, std::uint64_t max_blocks, std::mt19937_64& engine);

  DiskModel& model_;
  const Capabilities capabilities_;
  const std::uint64_t operations_;
  // Exceeds operations_ by at most the number of jobs. Relaxed: orders nothing else.
  std::atomic<std::uint64_t> drawn_ = 0;
};

}  // namespace guestio::load
