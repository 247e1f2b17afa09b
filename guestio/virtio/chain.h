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

/// One descriptor chain on the device side: fetched once, checked, and our own copy from then on.
namespace guestio::virtio {

/// The device's limit of descriptors in a chain. A larger ring raises it to its size. A smaller
/// ring does not lower it: drivers send indirect tables longer than their queue (2.7.5.3.1 forbids
/// that, SEG_MAX invites it).
inline constexpr std::uint32_t kMaxChainDescriptors = 1024;

/// Whether the device reads or writes an extent.
enum class Direction : std::uint8_t { kReadable, kWritable };

/// The result of popping a chain.
enum class PopResult : std::uint8_t {
  kChain,    ///< a chain was popped
  kNothing,  ///< no chain is available, or the queue pops none at present
  kNoRoom,   ///< a long chain waits for extents: pop again after another chain was cleared
};

/// A chain's head and its extents in guest memory, readable ones first. kInlineExtents are stored
/// inside; a longer chain borrows one block of its queue's arena. A device keeps one Chain for each
/// possible request in flight and reuses it.
///
/// A malformed chain has a head, a fault and no extents. The device writes its status into the last
/// writable byte of a chain. A chain returned without a status would leave an older one there,
/// which the driver would trust. So the walk goes on after the fault, and last_writable() names
/// that byte where the end of the chain is certain:
///
/// | malformed by                      | split                         | packed                  |
/// | --------------------------------- | ----------------------------- | ----------------------- |
/// | readable after writable           | found                         | found                   |
/// | extent wraps around               | found                         | found                   |
/// | more than 4 GiB in all            | found                         | found                   |
/// | more descriptors than the limit   | found, up to 32768            | found: the last entry   |
/// | INDIRECT with NEXT                | found, if bytes follow        | found, if bytes follow  |
/// | table inside a table              | found, if bytes follow        | found, if bytes follow  |
/// | table not negotiated              | unknown                       | unknown                 |
/// | table ends in a partial entry     | found, in the entire entries  | unknown                 |
/// | table empty, or wraps around      | unknown                       | unknown                 |
/// | table outside memory              | unknown                       | unknown                 |
/// | loop, NEXT outside the table      | unknown                       | ends the ring           |
///
/// "Found" yields nothing for chains without a writable descriptor, and where the last writable one
/// wraps around. A misplaced table is not followed: the driver may mean its bytes or the
/// descriptors in it. Writable bytes after it count again.
///
/// Invariants:
/// 1. No extent is empty, and none wraps around the address space.
/// 2. A malformed chain has no extents.
///
/// Lifetime: extents are valid until the next clear() or pop() into this chain. The arena outlives
/// the chain. Threads: one.
class Chain {
 public:
  static constexpr std::size_t kInlineExtents = 16;
  static constexpr std::uint64_t kMaxBytes = std::uint64_t{1} << 32;  ///< 2.7.5.2

  Chain() noexcept = default;
  Chain(const Chain&) = delete;
  Chain& operator=(const Chain&) = delete;
  ~Chain() { clear(); }

  /// Identifies the chain for push_used(): the first descriptor of a split ring's chain, the buffer
  /// id of a packed ring's.
  [[nodiscard]] std::uint16_t head() const noexcept { return head_; }
  [[nodiscard]] bool is_malformed() const noexcept { return malformed_; }
  /// The violation. Requires: is_malformed().
  [[nodiscard]] const Error& fault() const noexcept { return fault_; }
  /// The last device-writable byte; nothing if that is uncertain. Requires: is_malformed().
  [[nodiscard]] std::optional<Gpa> last_writable() const noexcept { return last_writable_; }

  [[nodiscard]] std::span<const mem::AddressRange> extents() const noexcept {
    return {data(), count_};
  }
  [[nodiscard]] std::span<const mem::AddressRange> readable() const noexcept {
    return extents().first(readable_count_);
  }
  [[nodiscard]] std::span<const mem::AddressRange> writable() const noexcept {
    return extents().subspan(readable_count_);
  }
  [[nodiscard]] std::uint64_t readable_length() const noexcept { return readable_length_; }
  [[nodiscard]] std::uint64_t writable_length() const noexcept { return writable_length_; }

  /// Empties the chain and returns a borrowed block.
  void clear() noexcept;

  // For the rings, which fill chains.

  enum class Append { kDone, kNoRoom, kMalformed };

  /// Empties the chain, and sets its head and the arena to borrow from.
  void begin(std::uint16_t head, ExtentArena& arena) noexcept;
  /// Adds the extent of one descriptor. kNoRoom: the chain is unusable until begin(). kMalformed:
  /// the chain is marked; append_malformed() follows for this descriptor and all later ones.
  /// Requires: begin() was called.
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
  /// Drops the extents; keeps the fault and the last writable byte so far.
  void mark_malformed(const Error& fault) noexcept;
  /// A descriptor of a malformed chain. Requires: is_malformed().
  void append_malformed(Gpa start, std::uint32_t length, Direction direction) noexcept;
  /// Part of a malformed chain is unknown. Requires: is_malformed().
  void forget_last_writable() noexcept { last_writable_.reset(); }

 private:
  [[nodiscard]] const mem::AddressRange* data() const noexcept {
    return block_.empty() ? inline_.data() : block_.data();
  }
  [[nodiscard]] std::size_t capacity() const noexcept {
    return block_.empty() ? inline_.size() : block_.size();
  }
  [[nodiscard]] Append make_room(Gpa start, std::uint32_t length, Direction direction) noexcept;
  [[nodiscard]] bool grow() noexcept;
  void drop_extents() noexcept;

  std::array<mem::AddressRange, kInlineExtents> inline_{};
  ExtentArena::Block block_;  // if not empty, holds all extents
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
