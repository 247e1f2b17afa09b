// SPDX-License-Identifier: MIT
// Transfers windows between scattered memory and a file by plans for arbitrary limits, compared
// with a model without limits.
#include "fuzz/program.h"
#include "guestio/base/align.h"
#include "guestio/base/check.h"
#include "guestio/buf/direct_io_limits.h"
#include "guestio/buf/segment_cursor.h"
#include "guestio/buf/transfer_plan.h"

namespace guestio::fuzz {
namespace {

using buf::DirectIoLimits;
using buf::IoBuffer;
using buf::SegmentCursor;
using buf::TransferPlan;

constexpr std::size_t kBytes = 0x8000;       // of memory, and the maximum of a window
constexpr std::size_t kFileBytes = 0x14000;  // a window, an offset and a block on either side
constexpr std::size_t kMaxOffset = 0x8000;
constexpr std::size_t kMaxSegments = 24;

alignas(kPageSize) std::array<std::byte, kBytes> memory;
alignas(kPageSize) std::array<std::byte, kBytes + 64 * kPageSize> bounce;

/// The expected contents of memory and file.
struct Bytes {
  std::vector<std::byte> of_memory;
  std::vector<std::byte> of_file;
};

/// Bytes with a period of at least a page, different for each `seed`.
void scramble(std::span<std::byte> bytes, std::size_t seed) {
  static const std::vector<std::byte> noise = [] {
    std::vector<std::byte> made(kFileBytes + kPageSize);
    std::uint32_t state = 1;
    for (std::byte& byte : made)
      byte = static_cast<std::byte>((state = state * 1664525 + 77) >> 24);
    return made;
  }();
  for (std::size_t at = 0; at < bytes.size(); at += kFileBytes) {
    const std::size_t size = std::min(bytes.size() - at, kFileBytes);
    std::memcpy(bytes.data() + at, noise.data() + seed, size);
  }
}

struct Move {
  std::vector<IoBuffer> segments;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  DirectIoLimits limits;
  TransferPlan::Options options{};
  bool is_write = false;

  /// The memory of byte `index` of the window, and the rest of its segment.
  [[nodiscard]] IoBuffer place(std::uint64_t index) const {
    for (const IoBuffer& segment : segments) {
      if (index < segment.length) return segment.subsegment(index, segment.length - index);
      index -= segment.length;
    }
    return {};
  }
};

Move take_move(Program& program) {
  Move move;
  DirectIoLimits& limits = move.limits;
  limits.memory_alignment = 1U << program.index(13);
  limits.length_alignment = 1U << program.index(13);
  limits.offset_alignment = 1U << program.index(13);
  limits.max_segments = 1 + static_cast<std::uint32_t>(program.index(12));
  limits.max_bytes = limits.block() + program.take<std::uint16_t>();
  move.options.max_bounce = limits.block() + program.take<std::uint16_t>() % kBytes;
  const auto flags = program.take<std::uint8_t>();
  move.is_write = (flags & 1) != 0;
  if ((flags & 6) == 6) move.options.policy = TransferPlan::Policy::kBounceAll;
  if ((flags & 24) == 24) move.options.max_pieces = flags >> 5;
  move.offset = program.take<std::uint16_t>() % kMaxOffset;
  if ((flags & 32) != 0) move.offset = align_down(move.offset, std::uint64_t{limits.block()});
  std::size_t at = 0;
  for (std::size_t left = program.index(kMaxSegments); left != 0 && at < kBytes; --left) {
    const auto shape = program.take<std::uint8_t>();
    at += program.take<std::uint8_t>() * std::size_t{shape & 3U};
    if ((shape & 4) != 0) at = align_up(at, std::size_t{limits.memory_alignment});
    if (at >= kBytes) break;
    std::size_t size = program.take<std::uint8_t>();
    if ((shape & 8) != 0) size *= (shape & 16) != 0 ? limits.block() : 37;
    size = std::min(size, kBytes - at);
    move.segments.push_back({memory.data() + at, size});
    move.length += size;
    at += size;
  }
  return move;
}

/// The documented guarantees of every plan.
void check_plan(const Move& move, const TransferPlan& plan, std::uint64_t done) {
  const DirectIoLimits& limits = move.limits;
  const std::uint64_t offset = move.offset + done;
  const std::size_t block = limits.block();
  const std::uint64_t start = plan.file_offset().raw();
  GUESTIO_CHECK(start % block == 0 && plan.file_bytes() % block == 0, "whole blocks");
  GUESTIO_CHECK(start + plan.head_padding() == offset, "padding up to the window");
  GUESTIO_CHECK(plan.head_padding() < block && plan.tail_padding() < block, "padding in a block");
  GUESTIO_CHECK(plan.window_bytes() > 0 && plan.window_bytes() <= move.length - done,
                "a non-empty prefix");
  GUESTIO_CHECK(plan.tail_padding() == 0 || plan.window_bytes() == move.length - done,
                "padding after the end of the window only");
  GUESTIO_CHECK(plan.file_bytes() <= limits.max_bytes, "no more than the limit of bytes");
  GUESTIO_CHECK(plan.pieces().size() <= limits.max_segments, "no more than the limit of segments");
  GUESTIO_CHECK(plan.bounced_bytes() <= plan.bounce_size(), "bounce memory for the bounced bytes");
  GUESTIO_CHECK(plan.bounce_size() <= move.options.max_bounce, "no more than the budget");
  std::uint64_t at = start;
  std::size_t bounced = 0;
  std::size_t bounce_end = 0;
  bool all_bounced = true;
  for (const TransferPlan::Piece& piece : plan.pieces()) {
    GUESTIO_CHECK(piece.size != 0 && piece.size % block == 0, "whole blocks in a piece");
    if (piece.is_bounced()) {
      GUESTIO_CHECK(piece.bounce_offset >= bounce_end, "pieces apart in bounce memory");
      GUESTIO_CHECK(piece.bounce_offset % limits.memory_alignment == 0, "an aligned piece");
      bounce_end = piece.bounce_offset + piece.size;
      bounced += piece.size;
    } else {
      all_bounced = false;
      GUESTIO_CHECK(
          is_aligned(reinterpret_cast<std::uintptr_t>(piece.data), limits.memory_alignment),
          "an aligned piece");
      GUESTIO_CHECK(at >= offset, "no padding in guest memory");
      const IoBuffer place = move.place(at - move.offset);
      GUESTIO_CHECK(place.data == piece.data && place.length >= piece.size, "the window's memory");
    }
    at += piece.size;
  }
  GUESTIO_CHECK(at == start + plan.file_bytes(), "pieces without gaps");
  GUESTIO_CHECK(bounced == plan.bounced_bytes() && bounce_end == plan.bounce_size(), "the sums");
  if (move.options.policy == TransferPlan::Policy::kBounceAll) {
    GUESTIO_CHECK(all_bounced, "everything bounced");
    return;
  }
  // If blocks keep the alignment, exactly the blocks that must be bounced are.
  const bool by_number = all_bounced && move.options.max_pieces != TransferPlan::kAnyNumber;
  if (by_number || block % limits.memory_alignment != 0) return;
  at = start;
  for (const TransferPlan::Piece& piece : plan.pieces()) {
    for (const std::uint64_t end = at + piece.size; at != end; at += block) {
      const bool in_window = at >= offset && at + block <= move.offset + move.length;
      const IoBuffer place = in_window ? move.place(at - move.offset) : IoBuffer{};
      const bool fits =
          place.length >= block &&
          is_aligned(reinterpret_cast<std::uintptr_t>(place.data), limits.memory_alignment);
      GUESTIO_CHECK(piece.is_bounced() != fits, "only necessary bounces");
    }
  }
}

/// Transfers `count` bytes as the kernel does.
void transfer(std::span<const IoBuffer> io, std::byte* file, std::size_t count, bool is_write) {
  for (const IoBuffer& segment : io) {
    const std::size_t size = std::min(segment.length, count);
    if (is_write) {
      std::memcpy(file, segment.data, size);
    } else {
      std::memcpy(segment.data, file, size);
    }
    file += size;
    count -= size;
  }
}

/// Transfers the bytes of one plan, or a part. Returns the transferred bytes of the window.
std::size_t follow(Program& program, const Move& move, const TransferPlan& plan,
                   const SegmentCursor& cursor, std::vector<std::byte>& file) {
  GUESTIO_CHECK(plan.bounce_size() <= bounce.size(), "enough bounce memory");
  const std::span<std::byte> lent = std::span(bounce).first(plan.bounce_size());
  scramble(lent, 77);
  const auto io = plan.segments(lent);
  GUESTIO_CHECK(io.size() == plan.pieces().size(), "a segment for each piece");
  std::byte* const at = file.data() + plan.file_offset().raw();
  if (move.is_write) {
    if (plan.has_padding()) {
      // Only blocks with padding may be filled: the others may be guest memory.
      const std::size_t block = move.limits.block();
      const IoBuffer first = io.front();
      const IoBuffer last = io.back();
      if (plan.head_padding() != 0) std::memcpy(first.data, at, block);
      if (plan.tail_padding() != 0) {
        std::memcpy(last.end() - block, at + plan.file_bytes() - block, block);
      }
    }
    GUESTIO_CHECK(plan.copy_in(cursor, lent).has_value(), "to copy into bounce memory");
    transfer({io.data(), io.size()}, at, plan.file_bytes(), true);
    return plan.window_bytes();
  }
  const std::size_t lost = program.flag() ? program.take<std::uint16_t>() : 0;
  const std::size_t arrived = plan.file_bytes() - std::min(lost, plan.file_bytes());
  transfer({io.data(), io.size()}, at, arrived, false);
  GUESTIO_CHECK(plan.copy_out(cursor, lent, arrived).has_value(), "to copy out of bounce memory");
  return std::min(arrived - std::min(arrived, plan.head_padding()), plan.window_bytes());
}

/// The model: exactly the transferred bytes of the window, in order.
void expect(const Move& move, std::uint64_t moved, Bytes& expected) {
  std::byte* file = expected.of_file.data() + move.offset;
  for (const IoBuffer& segment : move.segments) {
    std::byte* const guest = expected.of_memory.data() + (segment.data - memory.data());
    const std::size_t size = std::min<std::uint64_t>(segment.length, moved);
    if (size == 0) continue;
    std::memcpy(move.is_write ? file : guest, move.is_write ? guest : file, size);
    file += size;
    moved -= size;
  }
}

void run(Program program) {
  const Move move = take_move(program);
  scramble(memory, 1);
  std::vector<std::byte> file(kFileBytes);
  scramble(file, 2);
  Bytes expected{{memory.begin(), memory.end()}, file};
  SegmentCursor cursor(move.segments);
  std::uint64_t done = 0;
  // Bounded: with limits of about a byte a window takes a plan for each byte.
  for (int plans = 0; plans < 64 && done != move.length; ++plans) {
    const TransferPlan plan({cursor, FileOffset(move.offset + done), move.length - done},
                            move.limits, move.options);
    check_plan(move, plan, done);
    const std::size_t moved = follow(program, move, plan, cursor, file);
    cursor.advance(moved);
    done += moved;
  }
  expect(move, done, expected);
  GUESTIO_CHECK(std::memcmp(memory.data(), expected.of_memory.data(), kBytes) == 0,
                "the memory of the model");
  GUESTIO_CHECK(std::memcmp(file.data(), expected.of_file.data(), kFileBytes) == 0,
                "the file of the model");
}

}  // namespace
}  // namespace guestio::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  guestio::fuzz::run({data, size});
  return 0;
}
