// SPDX-License-Identifier: MIT
#include "apps/guestio-load/operation_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace guestio::load {

namespace {

// Attempts to find an extent without conflicting requests in flight.
constexpr int kMaxAttempts = 20;

std::uint64_t random(std::mt19937_64& engine, std::uint64_t low, std::uint64_t high) {
  return std::uniform_int_distribution<std::uint64_t>(low, high)(engine);
}

/// Mostly small, sometimes up to the maximum.
std::uint64_t random_length(std::mt19937_64& engine, std::uint64_t max) {
  constexpr std::array<std::uint64_t, 4> kScales = {8, 8, 64, ~std::uint64_t{0}};
  return random(engine, 1, std::min(max, kScales[random(engine, 0, kScales.size() - 1)]));
}

}  // namespace

const char* to_text(OperationKind kind) noexcept {
  switch (kind) {
    case OperationKind::kRead: return "read";
    case OperationKind::kWrite: return "write";
    case OperationKind::kFlush: return "flush";
    case OperationKind::kDiscard: return "discard";
    case OperationKind::kWriteZeroes: return "write-zeroes";
    case OperationKind::kGetId: return "get-id";
  }
  return "unknown";
}

std::string describe(const Operation& operation, const DiskModel& model) {
  std::string text = to_text(operation.kind);
  for (const auto& extent : operation.extents) {
    text +=
        fmt::format("{} {} bytes at offset {}", &extent == operation.extents.data() ? " of" : ",",
                    model.bytes_of(extent), model.offset_of(extent));
  }
  return text;
}

OperationSource::Draw SweepSource::draw(Operation& operation, std::mt19937_64& /*engine*/) {
  const std::uint64_t number = chunks_drawn_.fetch_add(1, std::memory_order_relaxed);
  const std::uint64_t first = number * chunk_;
  if (first >= model_.blocks()) return Draw::kDone;
  operation = {.kind = kind_,
               .extents = {{first, std::min(chunk_, model_.blocks() - first)}},
               .number = number + 1};
  // No conflicting requests are in flight during a sweep.
  return model_.try_reserve(operation.extents.front(), operation.access()) ? Draw::kOperation
                                                                           : Draw::kDone;
}

OperationSource::Draw RandomSource::draw(Operation& operation, std::mt19937_64& engine) {
  if (drawn_.load(std::memory_order_relaxed) >= operations_) return Draw::kDone;
  operation = {.kind = random_kind(engine)};
  operation.may_unmap = random(engine, 0, 1) == 0;
  if (!reserve_extents(operation, engine)) return Draw::kBusy;
  operation.number = drawn_.fetch_add(1, std::memory_order_relaxed) + 1;
  if (operation.number <= operations_) return Draw::kOperation;
  // Another job has drawn the last operation.
  for (const auto& extent : operation.extents) model_.release(extent, operation.access());
  return Draw::kDone;
}

OperationKind RandomSource::random_kind(std::mt19937_64& engine) const {
  const std::uint64_t dice = random(engine, 0, 99);
  if (dice < 2) return OperationKind::kGetId;
  if (dice < 7 && capabilities_.flush) return OperationKind::kFlush;
  if (!capabilities_.write) return OperationKind::kRead;
  if (dice < 12 && capabilities_.discard.segments != 0) return OperationKind::kDiscard;
  if (dice < 17 && capabilities_.write_zeroes.segments != 0) return OperationKind::kWriteZeroes;
  return dice < 58 ? OperationKind::kRead : OperationKind::kWrite;
}

bool RandomSource::reserve_extents(Operation& operation, std::mt19937_64& engine) {
  switch (operation.kind) {
    case OperationKind::kFlush:
    case OperationKind::kGetId: return true;
    case OperationKind::kRead:
    case OperationKind::kWrite: return reserve_one(operation, capabilities_.max_blocks, engine);
    case OperationKind::kDiscard:
    case OperationKind::kWriteZeroes: break;
  }
  const Ranges& ranges = operation.kind == OperationKind::kDiscard ? capabilities_.discard
                                                                   : capabilities_.write_zeroes;
  // At least one; more if unreserved extents are found.
  const std::uint64_t wanted = random(engine, 1, std::min<std::uint64_t>(ranges.segments, 8));
  for (std::uint64_t i = 0; i < wanted; ++i) {
    if (!reserve_one(operation, ranges.blocks, engine)) break;
  }
  return !operation.extents.empty();
}

bool RandomSource::reserve_one(Operation& operation, std::uint64_t max_blocks,
                               std::mt19937_64& engine) {
  // At most half of the region, which leaves extents for other requests.
  const std::uint64_t limit = std::min(max_blocks, std::max<std::uint64_t>(model_.blocks() / 2, 1));
  for (int i = 0; i < kMaxAttempts; ++i) {
    const std::uint64_t count = random_length(engine, limit);
    const DiskModel::Extent extent{random(engine, 0, model_.blocks() - count), count};
    if (!model_.try_reserve(extent, operation.access())) continue;
    operation.extents.push_back(extent);
    return true;
  }
  return false;
}

}  // namespace guestio::load
