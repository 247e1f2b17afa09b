// SPDX-License-Identifier: MIT
#include "guestio/disk/remote/unflushed_writes.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <span>
#include <utility>

#include "guestio/base/align.h"

namespace guestio::disk {

namespace {

using Work = RemoteCommand::Work;

constexpr std::size_t kMaxBatch = 32;
// malloc() keeps the pages of smaller ones itself.
constexpr std::size_t kSmallestSpare = std::size_t{32} << 10;

/// Whether they touch the same block of `range_block`, or the same byte if both are writes.
bool collide(const Work& a, const Work& b, std::uint64_t range_block) noexcept {
  const bool are_writes = a.kind == IoKind::kWrite && b.kind == IoKind::kWrite;
  const std::uint64_t block = are_writes || range_block == 0 ? 1 : range_block;
  const auto first = [block](const Work& work) { return align_down(work.offset.raw(), block); };
  const auto end = [block](const Work& work) {
    return align_up(work.offset.raw() + work.length, block);
  };
  return first(a) < end(b) && first(b) < end(a);
}

/// A write in the memory file, before its data.
struct Record {
  std::uint64_t magic;
  std::uint64_t kind;
  std::uint64_t unmap;
  std::uint64_t offset;
  std::uint64_t length;
};
constexpr std::uint64_t kMagic = 0x3177'7566'6c69'7067;

Result<> write_all(int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written <= 0) return fail_host("write to a memory file");
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  return {};
}

/// At `offset`, which it advances.
Result<> read_all(int fd, std::uint64_t& offset, std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t got = ::pread(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (got < 0) return fail_host("read a memory file");
    if (got == 0) return fail(ErrorKind::kInvalidArgument, "a short file of unflushed writes");
    offset += static_cast<std::uint64_t>(got);
    bytes = bytes.subspan(static_cast<std::size_t>(got));
  }
  return {};
}

bool is_valid(const Record& record, std::uint64_t left, ByteCount disk_size) noexcept {
  constexpr std::array kKinds = {IoKind::kWrite, IoKind::kWriteZeroes, IoKind::kDiscard};
  const bool has_data = record.kind == std::to_underlying(IoKind::kWrite);
  return record.magic == kMagic && record.unmap <= std::to_underlying(Unmap::kAllowed) &&
         std::ranges::any_of(
             kKinds, [&](IoKind kind) { return std::to_underlying(kind) == record.kind; }) &&
         record.length <= disk_size.raw() && record.offset <= disk_size.raw() - record.length &&
         (!has_data || record.length <= left);
}

}  // namespace

void UnflushedWrites::add(const Work& work) {
  Entry entry{.work = work, .data = take_spare(work.data.size())};
  entry.data.assign(work.data.begin(), work.data.end());
  entry.work.data = {};
  entry.work.durability = Durability::kCached;
  bytes_.fetch_add(entry.bytes(), std::memory_order_relaxed);
  const std::lock_guard lock(mutex_);
  entries_.push_back(std::move(entry));
}

std::vector<std::byte> UnflushedWrites::take_spare(std::size_t length) {
  if (length < kSmallestSpare) return {};
  const std::lock_guard lock(mutex_);
  std::vector<std::byte> data;
  if (spares_.empty()) return data;
  data = std::move(spares_.back());
  spares_.pop_back();
  spare_bytes_ -= data.capacity();
  // A much larger one would hold more memory than bytes_ tells.
  if (data.capacity() < length || data.capacity() > 2 * length) data = {};
  return data;
}

void UnflushedWrites::keep_spare(std::vector<std::byte>& data) {
  const std::uint64_t most = limit_ - std::min(limit_, bytes_.load(std::memory_order_relaxed));
  if (data.capacity() < kSmallestSpare || spare_bytes_ + data.capacity() > most) return;
  spare_bytes_ += data.capacity();
  spares_.push_back(std::move(data));
}

bool UnflushedWrites::is_empty() const {
  const std::lock_guard lock(mutex_);
  return entries_.empty();
}

UnflushedWrites::Position UnflushedWrites::begin() const {
  const std::lock_guard lock(mutex_);
  return begin_;
}

UnflushedWrites::Position UnflushedWrites::end() const {
  const std::lock_guard lock(mutex_);
  return begin_ + entries_.size();
}

void UnflushedWrites::drop_before(Position end) {
  std::deque<Entry> dropped;  // freed without the lock
  const std::lock_guard lock(mutex_);
  for (; begin_ < end && !entries_.empty(); ++begin_) {
    bytes_.fetch_sub(entries_.front().bytes(), std::memory_order_relaxed);
    keep_spare(entries_.front().data);
    dropped.push_back(std::move(entries_.front()));
    entries_.pop_front();
  }
}

std::vector<Work> UnflushedWrites::next_batch(Position& at, std::uint64_t range_block) const {
  const std::lock_guard lock(mutex_);
  std::vector<Work> batch;
  for (at = std::max(at, begin_); at < begin_ + entries_.size() && batch.size() < kMaxBatch; ++at) {
    const Entry& entry = entries_[at - begin_];
    Work work = entry.work;
    const auto collides = [&](const Work& other) { return collide(work, other, range_block); };
    if (std::ranges::any_of(batch, collides)) break;
    // The command only reads it: a write.
    work.data = {const_cast<std::byte*>(entry.data.data()), entry.data.size()};
    batch.push_back(work);
  }
  return batch;
}

Result<UniqueFd> UnflushedWrites::save() const {
  UniqueFd file(::memfd_create("guestio unflushed writes", MFD_CLOEXEC));
  if (!file) return fail_host("make a memory file");
  const std::lock_guard lock(mutex_);
  for (const Entry& entry : entries_) {
    const Record record{.magic = kMagic,
                        .kind = std::to_underlying(entry.work.kind),
                        .unmap = std::to_underlying(entry.work.unmap),
                        .offset = entry.work.offset.raw(),
                        .length = entry.work.length};
    auto written = write_all(file.get(), std::as_bytes(std::span(&record, 1)));
    if (written) written = write_all(file.get(), entry.data);
    if (!written) return fail(written.error());
  }
  return file;
}

Result<> UnflushedWrites::load(const UniqueFd& file, ByteCount disk_size) {
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) return fail_host("examine a memory file");
  clear();
  const auto size = static_cast<std::uint64_t>(status.st_size);
  for (std::uint64_t at = 0; at < size;) {
    Record record{};
    auto read = read_all(file.get(), at, std::as_writable_bytes(std::span(&record, 1)));
    if (!read) return read;
    if (!is_valid(record, size - at, disk_size)) {
      return fail(ErrorKind::kInvalidArgument, "a file of unflushed writes", at);
    }
    Work work{.kind = static_cast<IoKind>(record.kind),
              .unmap = static_cast<Unmap>(record.unmap),
              .offset = FileOffset(record.offset),
              .length = record.length};
    std::vector<std::byte> data(work.kind == IoKind::kWrite ? record.length : 0);
    if (read = read_all(file.get(), at, data); !read) return read;
    work.data = data;
    add(work);
  }
  return {};
}

void UnflushedWrites::clear() {
  const std::lock_guard lock(mutex_);
  begin_ += entries_.size();
  entries_.clear();
  bytes_.store(0, std::memory_order_relaxed);
}

}  // namespace guestio::disk
