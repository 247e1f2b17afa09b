// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <random>
#include <vector>

#include "guestio/disk/disk.h"

namespace guestio::testing {

/// A disk with a volatile write cache, as adverse as the rules allow.
///
/// 1. Flushed and stable writes survive a power loss. Any subset of the cached writes survives,
///    sector by sector, and any one of several writes to a sector.
/// 2. perform_one() completes requests, in any order.
/// 3. A flush covers only writes completed before it started.
///
/// Threads: one. Lifetime: outlives its requests.
class CrashDisk final : public disk::Channel {
 public:
  using SectorBytes = std::array<std::byte, Sector::kSize>;

  CrashDisk(std::uint64_t sectors, std::uint64_t seed);

  [[nodiscard]] const disk::DiskInfo& info() const noexcept { return info_; }

  void start(disk::Io& io) noexcept override;
  /// Completes one waiting request; false without any.
  bool perform_one();
  /// Requests in flight end with an error and may be done in part.
  void lose_power();
  /// Contents of a sector.
  [[nodiscard]] const SectorBytes& at(std::uint64_t sector) const noexcept;

 private:
  struct Waiting {
    disk::Io* io;
    std::uint64_t covers;  ///< of a flush: writes before this one
  };
  struct Version {
    std::uint64_t write;
    SectorBytes bytes;
  };
  struct Cell {
    SectorBytes stable{};
    std::vector<Version> cached;  // oldest first
  };

  Result<> perform(const Waiting& waiting);
  Result<> read(disk::Io& io);
  Result<> write(disk::Io& io);
  void put(std::uint64_t sector, const SectorBytes& bytes, disk::Durability durability);
  void flush(std::uint64_t covers);

  disk::DiskInfo info_;
  std::vector<Cell> cells_;
  std::deque<Waiting> waiting_;
  std::uint64_t writes_ = 0;
  std::mt19937_64 random_;
};

}  // namespace guestio::testing
