// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <random>
#include <vector>

#include "guestio/disk/disk.h"

namespace guestio::testing {

/// A disk with a write cache that is lost with the power: what was flushed or written as stable is
/// there afterwards, of the rest any subset, sector by sector, and of several writes to a sector
/// any one. As unkind as the rules allow otherwise too: requests are done when perform_one() says
/// so, in any order, and a flush covers no more than what was done before it started.
///
/// Threads: one. Lifetime: outlives what was started on it.
class CrashDisk final : public disk::Channel {
 public:
  using SectorBytes = std::array<std::byte, Sector::kSize>;

  CrashDisk(std::uint64_t sectors, std::uint64_t seed);

  [[nodiscard]] const disk::DiskInfo& info() const noexcept { return info_; }

  void start(disk::Io& io) noexcept override;
  /// Does one of the requests that wait; false when none does.
  bool perform_one();
  /// What was in flight ends with an error, whatever became of it.
  void lose_power();
  /// What a sector holds.
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
  struct Place {
    SectorBytes stable{};
    std::vector<Version> cached;  // oldest first
  };

  Result<> perform(const Waiting& waiting);
  Result<> read(disk::Io& io);
  Result<> write(disk::Io& io);
  void put(std::uint64_t sector, const SectorBytes& bytes, disk::Durability durability);
  void flush(std::uint64_t covers);

  disk::DiskInfo info_;
  std::vector<Place> places_;
  std::deque<Waiting> waiting_;
  std::uint64_t writes_ = 0;
  std::mt19937_64 random_;
};

}  // namespace guestio::testing
