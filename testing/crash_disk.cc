// SPDX-License-Identifier: MIT
#include "testing/crash_disk.h"

#include <algorithm>
#include <utility>

namespace guestio::testing {

using disk::IoKind;

CrashDisk::CrashDisk(std::uint64_t sectors, std::uint64_t seed) : cells_(sectors), random_(seed) {
  constexpr disk::RangeLimits kAnything{ByteCount(std::uint64_t{1} << 30), ByteCount(512)};
  info_.size = ByteCount(sectors * Sector::kSize);
  info_.discard = kAnything;
  info_.write_zeroes = kAnything;
}

const CrashDisk::SectorBytes& CrashDisk::at(std::uint64_t sector) const noexcept {
  const Cell& cell = cells_[sector];
  return cell.cached.empty() ? cell.stable : cell.cached.back().bytes;
}

void CrashDisk::start(disk::Io& io) noexcept {
  if (auto checked = disk::check_io(info_, io); !checked) return io.on_done(checked);
  waiting_.push_back({&io, writes_});
}

bool CrashDisk::perform_one() {
  if (waiting_.empty()) return false;
  const auto chosen = waiting_.begin() + static_cast<std::ptrdiff_t>(random_() % waiting_.size());
  const Waiting waiting = *chosen;
  waiting_.erase(chosen);
  waiting.io->on_done(perform(waiting));
  return true;
}

Result<> CrashDisk::perform(const Waiting& waiting) {
  switch (waiting.io->kind) {
    case IoKind::kRead: return read(*waiting.io);
    case IoKind::kFlush: flush(waiting.covers); return {};
    default: return write(*waiting.io);
  }
}

Result<> CrashDisk::read(disk::Io& io) {
  auto to = io.buffers.writer();
  for (std::uint64_t done = 0; done < io.length; done += Sector::kSize) {
    const auto wrote = to.write(at((io.offset.raw() + done) / Sector::kSize));
    if (!wrote) return wrote;
  }
  return {};
}

Result<> CrashDisk::write(disk::Io& io) {
  auto from = io.buffers.reader();
  for (std::uint64_t done = 0; done < io.length; done += Sector::kSize) {
    SectorBytes bytes{};
    if (io.kind == IoKind::kWrite) {
      if (auto got = from.read(bytes); !got) return got;
    } else if (io.kind == IoKind::kDiscard && random_() % 2 == 0) {
      continue;  // a hint
    }
    put((io.offset.raw() + done) / Sector::kSize, bytes, io.durability);
  }
  return {};
}

void CrashDisk::put(std::uint64_t sector, const SectorBytes& bytes, disk::Durability durability) {
  Cell& cell = cells_[sector];
  ++writes_;
  if (durability == disk::Durability::kCached) {
    cell.cached.push_back({writes_ - 1, bytes});
    return;
  }
  cell.stable = bytes;
  cell.cached.clear();
}

void CrashDisk::flush(std::uint64_t covers) {
  for (Cell& cell : cells_) {
    const auto end = std::ranges::find_if(
        cell.cached, [covers](const Version& version) { return version.write >= covers; });
    if (end == cell.cached.begin()) continue;
    cell.stable = std::prev(end)->bytes;
    cell.cached.erase(cell.cached.begin(), end);
  }
}

void CrashDisk::lose_power() {
  // The disk does any part of the requests in flight.
  const auto lost = std::exchange(waiting_, {});
  for (const Waiting& waiting : lost) {
    if (waiting.io->kind != IoKind::kRead && waiting.io->kind != IoKind::kFlush &&
        random_() % 2 == 0) {
      (void)write(*waiting.io);
    }
  }
  for (Cell& cell : cells_) {
    const std::size_t kept = random_() % (cell.cached.size() + 1);
    if (kept != 0) cell.stable = cell.cached[kept - 1].bytes;
    cell.cached.clear();
  }
  for (const Waiting& waiting : lost) {
    waiting.io->on_done(fail(ErrorKind::kClosed, "a disk without power"));
  }
}

}  // namespace guestio::testing
