// SPDX-License-Identifier: MIT
#pragma once

#include <boost/intrusive/list.hpp>

#include <cstdint>
#include <mutex>

#include "guestio/base/units.h"

namespace guestio::disk {

/// Keeps writes that change only part of a block (read, modify, write) apart from every other write
/// to the same blocks, on all threads: without it two such writes could lose each other's bytes.
/// Whole-block writes to the same blocks do not exclude each other: their order is the guest's own
/// affair.
///
/// Claims that conflict are granted in the order they came. Only disks whose direct I/O blocks are
/// larger than what the guest may write use it (Granularity).
///
/// Threads: any.
class BlockGuard {
 public:
  enum class Kind : std::uint8_t { kWholeBlocks, kPartOfBlocks };

  /// A claim on a byte range of the disk. Owned by who asks; in the list from claim() to release().
  class Claim : public boost::intrusive::list_base_hook<> {
   public:
    Claim(FileOffset start, std::uint64_t length, Kind kind) noexcept
        : start_(start), length_(length), kind_(kind) {}
    Claim(const Claim&) = delete;
    Claim& operator=(const Claim&) = delete;

    /// The claim is granted. Called under the guard's lock by the thread that released the last
    /// claim in the way, and never from inside claim(): hand it over to the claimer's thread.
    virtual void on_granted() noexcept = 0;

   protected:
    ~Claim() = default;

   private:
    friend class BlockGuard;
    [[nodiscard]] bool conflicts_with(const Claim& other) const noexcept {
      const bool exclude = kind_ == Kind::kPartOfBlocks || other.kind_ == Kind::kPartOfBlocks;
      return exclude && start_.raw() < other.start_.raw() + other.length_ &&
             other.start_.raw() < start_.raw() + length_;
    }
    const FileOffset start_;
    const std::uint64_t length_;
    const Kind kind_;
    std::uint32_t waits_for_ = 0;  // earlier claims in conflict; protected by the guard's mutex
  };

  BlockGuard() = default;
  BlockGuard(const BlockGuard&) = delete;
  BlockGuard& operator=(const BlockGuard&) = delete;
  /// Checks that nothing is claimed.
  ~BlockGuard();

  /// Returns whether the claim is granted at once; otherwise on_granted() says so later.
  [[nodiscard]] bool claim(Claim& claim) noexcept;
  /// Requires: the claim was granted.
  void release(Claim& claim) noexcept;

 private:
  std::mutex mutex_;
  // protected by mutex_; in order of arrival
  boost::intrusive::list<Claim> claims_;
};

}  // namespace guestio::disk
