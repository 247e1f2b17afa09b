// SPDX-License-Identifier: MIT
#pragma once

#include <boost/intrusive/list.hpp>

#include <cstddef>
#include <cstdint>
#include <mutex>

#include "guestio/base/units.h"

namespace guestio::disk {

/// Excludes some operations from every other write to the same blocks, on all threads. Other writes
/// do not exclude each other: their order is the guest's responsibility. Exclusive are:
///
/// 1. read-modify-write of part of a block: two of them could lose each other's bytes;
/// 2. discard and write-zeroes, where the storage does not order them and writes that it allocates
///    blocks for (RemoteLimits::range_block).
///
/// Conflicting claims are granted in order of arrival. Without an exclusive claim, a claim costs a
/// lock.
///
/// Threads: any.
class BlockGuard {
 public:
  enum class Kind : std::uint8_t { kShared, kExclusive };

  /// A claim on a byte range of the disk. The claimer owns it; it is listed from claim() to
  /// release().
  class Claim : public boost::intrusive::list_base_hook<> {
   public:
    Claim(FileOffset start, std::uint64_t length, Kind kind) noexcept
        : start_(start), length_(length), kind_(kind) {}
    Claim(const Claim&) = delete;
    Claim& operator=(const Claim&) = delete;

    /// Grants the claim. Called under the guard's lock, on the thread of the last conflicting
    /// release() and never from inside claim(): pass it on to the claimer's thread.
    virtual void on_granted() noexcept = 0;

   protected:
    ~Claim() = default;

   private:
    friend class BlockGuard;
    [[nodiscard]] bool is_exclusive() const noexcept { return kind_ == Kind::kExclusive; }
    [[nodiscard]] bool conflicts_with(const Claim& other) const noexcept {
      return (is_exclusive() || other.is_exclusive()) &&
             start_.raw() < other.start_.raw() + other.length_ &&
             other.start_.raw() < start_.raw() + length_;
    }
    const FileOffset start_;
    const std::uint64_t length_;
    const Kind kind_;
    std::uint32_t conflicts_ = 0;  // earlier claims in conflict; protected by the guard's mutex
  };

  BlockGuard() = default;
  BlockGuard(const BlockGuard&) = delete;
  BlockGuard& operator=(const BlockGuard&) = delete;
  /// Checks that no claim is listed.
  ~BlockGuard();

  /// Returns whether the claim is granted at once; if not, on_granted() follows.
  [[nodiscard]] bool claim(Claim& claim) noexcept;
  /// Requires: the claim was granted.
  void release(Claim& claim) noexcept;

 private:
  std::mutex mutex_;
  // protected by mutex_
  boost::intrusive::list<Claim> claims_;  // in order of arrival
  std::size_t exclusive_ = 0;             // of claims_
};

}  // namespace guestio::disk
