// SPDX-License-Identifier: MIT
#include "guestio/uring/fixed_memory.h"

#include <algorithm>
#include <cerrno>

#include "guestio/base/check.h"

namespace guestio::uring {

namespace {

std::unexpected<Error> fail_to_register(int error) noexcept {
  switch (error) {
    case ENOMEM: return fail(Error::host(error, "register memory (the memory-lock limit)"));
    case EFAULT:
    case EOPNOTSUPP:
      return fail(ErrorKind::kUnsupported, "registering memory that cannot be pinned for writing");
    default: return fail(Error::host(error, "register memory"));
  }
}

}  // namespace

FixedMemory::~FixedMemory() {
  GUESTIO_CHECK(areas_.empty(), "no memory to be registered with a ring that ends");
}

Result<> FixedMemory::make_table() {
  if (is_made_) return {};
  if (slots_ == 0) return fail(ErrorKind::kTooLarge, "slots for registered memory", 1, 0);
  const int made = ::io_uring_register_buffers_sparse(ring_.raw(), slots_);
  if (made == -EINVAL) return fail(ErrorKind::kUnsupported, "a sparse table of registered memory");
  if (made < 0) return fail(Error::host(-made, "make a table of registered memory"));
  is_made_ = true;
  takes_lists_ = ring_.supports(kOpReadvFixed) && ring_.supports(kOpWritevFixed);
  for (unsigned slot = slots_; slot > 0; --slot) {
    free_.push_back(static_cast<std::uint16_t>(slot - 1));
  }
  return {};
}

Result<FixedMemory::Registration> FixedMemory::add(std::span<std::byte> memory) {
  if (memory.empty()) return fail(ErrorKind::kInvalidArgument, "registering no bytes");
  for (Area& area : areas_) {
    if (area.memory.data() != memory.data() || area.memory.size() != memory.size()) continue;
    ++area.uses;
    return Registration(*this, area);
  }
  if (auto made = make_table(); !made) return fail(made.error());
  const std::size_t needed = (memory.size() - 1) / piece_bytes_ + 1;
  if (needed > free_.size()) {
    return fail(ErrorKind::kTooLarge, "slots for registered memory", needed, free_.size());
  }
  Area& area = areas_.emplace_back(memory);
  for (auto rest = memory; !rest.empty();) {
    const auto piece = rest.first(std::min(rest.size(), piece_bytes_));
    if (auto added = add_piece(piece, area); !added) {
      remove_pieces(area);
      areas_.pop_back();
      return fail(added.error());
    }
    rest = rest.subspan(piece.size());
  }
  area.uses = 1;
  return Registration(*this, area);
}

Result<> FixedMemory::add_piece(std::span<std::byte> memory, Area& area) {
  const iovec bytes{memory.data(), memory.size()};
  const std::uint16_t slot = free_.back();
  const int updated = ::io_uring_register_buffers_update_tag(ring_.raw(), slot, &bytes, nullptr, 1);
  if (updated != 1) return fail_to_register(-updated);
  free_.pop_back();
  area.slots.push_back(slot);
  const Piece piece{reinterpret_cast<std::uintptr_t>(memory.data()), memory.size(), slot};
  pieces_.insert(std::ranges::upper_bound(pieces_, piece.start, {}, &Piece::start), piece);
  last_ = 0;
  return {};
}

void FixedMemory::release(Area& area) noexcept {
  if (--area.uses != 0) return;
  remove_pieces(area);
  areas_.remove_if([&area](const Area& other) { return &other == &area; });
}

void FixedMemory::remove_pieces(const Area& area) noexcept {
  const iovec nothing{};
  for (const std::uint16_t slot : area.slots) {
    std::erase_if(pieces_, [slot](const Piece& piece) { return piece.slot == slot; });
    // A slot that could not be emptied still holds the memory: it is lost, not used again.
    const int updated =
        ::io_uring_register_buffers_update_tag(ring_.raw(), slot, &nothing, nullptr, 1);
    if (updated == 1) free_.push_back(slot);
  }
  last_ = 0;
}

/// Of areas that overlap, one that begins earlier may be missed: that costs time only.
std::optional<std::uint16_t> FixedMemory::find_slowly(std::uintptr_t start,
                                                      std::size_t size) noexcept {
  const auto behind = std::ranges::upper_bound(pieces_, start, {}, &Piece::start);
  if (behind == pieces_.begin()) return std::nullopt;
  const auto found = behind - 1;
  if (!found->holds(start, size)) return std::nullopt;
  last_ = static_cast<std::size_t>(found - pieces_.begin());
  return found->slot;
}

}  // namespace guestio::uring
