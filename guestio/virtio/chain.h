// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "guestio/base/error.h"
#include "guestio/mem/address_range.h"
#include "guestio/virtio/extent_arena.h"

/// One descriptor chain as the device got it: fetched once, checked, ours from then on.
namespace guestio::virtio {

/// The device's own limit of a chain's length. A ring of more entries raises it to its size; one of
/// fewer does not lower it: drivers send indirect tables that are longer than their queue
/// (2.7.5.3.1 forbids that, a device's offer of segments invites it).
inline constexpr std::uint32_t kMaxChainDescriptors = 1024;

/// Who may write an extent.
enum class Direction : std::uint8_t { kReadable, kWritable };  // by the device

/// What came of taking a chain from a ring, of either kind.
enum class PopResult : std::uint8_t {
  kChain,    ///< The chain is the next one.
  kNothing,  ///< The driver has made nothing more available.
  kNoRoom,   ///< A long chain waits for extents: try again when another chain was cleared.
};

/// A chain's head and its extents in guest memory, readable ones first. Room for kInlineExtents is
/// inside; longer chains borrow one block of their queue's arena. A caller keeps one Chain for each
/// request that it can have in flight and uses it again and again.
///
/// A malformed chain has a head, a fault and no extents. Devices put their verdict into a chain's
/// last writable byte; a driver that gets the chain back without one takes what stood there before
/// for it. So the walk goes on from the fault, and last_writable() says where that byte is, when
/// the end of the chain is certain:
///
/// | malformed by                           | split                    | packed                  |
/// | -------------------------------------- | ------------------------ | ----------------------- |
/// | readable after writable                | found                    | found                   |
/// | extent that wraps around the addresses | found                    | found                   |
/// | more than 4 GiB in all                 | found                    | found                   |
/// | more descriptors than the limit        | found, up to 32768       | found: the last entry   |
/// | INDIRECT with NEXT                     | found, if bytes follow   | found, if bytes follow  |
/// | table inside a table                   | found, if bytes follow   | found, if bytes follow  |
/// | table that was not negotiated          | unknown                  | unknown                 |
/// | table with a part of an entry          | found, in the whole ones | unknown                 |
/// | empty table, or one that wraps         | unknown                  | unknown                 |
/// | table outside memory                   | unknown                  | unknown                 |
/// | loop, NEXT outside the table           | unknown                  | ends the ring           |
///
/// Found is nothing too when no descriptor is writable, or when the last one that is wraps. A table
/// where none may be is not followed: nobody knows whether its driver means those bytes or what
/// they describe. Writable bytes after it count again.
///
/// Invariants:
/// 1. No extent is empty and none wraps around the address space.
/// 2. A malformed chain has no extents.
///
/// Lifetime: an extent list is good until the next clear() or pop() into this chain, which the
/// arena must outlive. Threads: one.
class Chain {
 public:
  static constexpr std::size_t kInlineExtents = 16;
  static constexpr std::uint64_t kMaxBytes = std::uint64_t{1} << 32;  ///< 2.7.5.2

  Chain() noexcept = default;
  Chain(const Chain&) = delete;
  Chain& operator=(const Chain&) = delete;
  ~Chain() { clear(); }

  /// What push_used() wants back: a split ring's first descriptor, a packed ring's buffer id.
  [[nodiscard]] std::uint16_t head() const noexcept { return head_; }
  [[nodiscard]] bool is_malformed() const noexcept { return malformed_; }
  /// Which rule the driver broke. Requires: is_malformed().
  [[nodiscard]] const Error& fault() const noexcept { return fault_; }
  /// The last byte that the device may write; nothing when it is not known for certain.
  /// Requires: is_malformed().
  [[nodiscard]] std::optional<Gpa> last_writable() const noexcept { return last_writable_; }

  [[nodiscard]] std::span<const mem::AddressRange> extents() const noexcept {
    return {place(), count_};
  }
  [[nodiscard]] std::span<const mem::AddressRange> readable() const noexcept {
    return extents().first(readable_count_);
  }
  [[nodiscard]] std::span<const mem::AddressRange> writable() const noexcept {
    return extents().subspan(readable_count_);
  }
  [[nodiscard]] std::uint64_t readable_length() const noexcept { return readable_length_; }
  [[nodiscard]] std::uint64_t writable_length() const noexcept { return writable_length_; }

  /// Back to an empty chain; a borrowed block goes home.
  void clear() noexcept;

  // What follows is for the queues, which fill chains.

  /// What became of an extent.
  enum class Append { kDone, kNoRoom, kMalformed };

  /// Empties the chain and gives it a head and the arena to borrow from.
  void begin(std::uint16_t head, ExtentArena& arena) noexcept;
  /// Adds what one descriptor says. On kNoRoom the chain is unusable until it begins anew; on
  /// kMalformed it is marked already, and add_malformed() is to follow for the same descriptor and
  /// all after it. Requires: begin() came before.
  [[nodiscard]] Append append(Gpa start, std::uint32_t length, Direction direction) noexcept {
    if (length == 0) return Append::kDone;
    const bool writable = direction == Direction::kWritable;
    const bool is_in_order = writable || count_ == readable_count_;
    const bool wraps = start.raw() > ~std::uint64_t{0} - (length - 1);
    const std::uint64_t all = readable_length_ + writable_length_ + length;
    if (!is_in_order || wraps || all > kMaxBytes || count_ == capacity()) [[unlikely]] {
      const Append found = make_room(start, length, direction);
      if (found != Append::kDone) return found;
    }
    (block_.empty() ? inline_.data() : block_.data())[count_] =
        mem::AddressRange::from_checked(start, length);
    ++count_;
    if (!writable) readable_count_ = count_;
    (writable ? writable_length_ : readable_length_) += length;
    return Append::kDone;
  }
  /// Drops the extents and remembers why, and which writable byte was the last so far.
  void mark_malformed(const Error& fault) noexcept;
  /// A descriptor of a malformed chain. Requires: is_malformed().
  void add_malformed(Gpa start, std::uint32_t length, Direction direction) noexcept;
  /// What follows or followed in a malformed chain is not known. Requires: is_malformed().
  void forget_last_writable() noexcept { last_writable_.reset(); }

 private:
  [[nodiscard]] const mem::AddressRange* place() const noexcept {
    return block_.empty() ? inline_.data() : block_.data();
  }
  [[nodiscard]] std::size_t capacity() const noexcept {
    return block_.empty() ? inline_.size() : block_.size();
  }
  [[nodiscard]] Append make_room(Gpa start, std::uint32_t length, Direction direction) noexcept;
  [[nodiscard]] bool grow() noexcept;
  void drop_extents() noexcept;

  std::array<mem::AddressRange, kInlineExtents> inline_{};
  ExtentArena::Block block_;  // holds all extents, once there is one
  ExtentArena* arena_ = nullptr;
  std::size_t count_ = 0;
  std::size_t readable_count_ = 0;
  std::uint64_t readable_length_ = 0;
  std::uint64_t writable_length_ = 0;
  Error fault_;
  std::optional<Gpa> last_writable_;  // of a malformed chain
  std::uint16_t head_ = 0;
  bool malformed_ = false;
};

}  // namespace guestio::virtio
