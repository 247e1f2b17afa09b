// SPDX-License-Identifier: MIT
#include "join_disk.h"

#include <fcntl.h>
#include <guestio/buf/segment_cursor.h>
#include <guestio/task/scope.h>
#include <guestio/uring/awaitables.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>
#include <utility>

namespace join {

// In a project of its own, namespaces are free to choose.
using namespace guestio;
using namespace guestio::disk;

namespace {

constexpr std::uint64_t kMaxZeroes = std::uint64_t{16} << 20;
constexpr std::array<std::byte, std::size_t{64} << 10> kZeroes{};

/// One thread's channel. A request is a coroutine that submits operations to the loop's ring.
class JoinChannel final : public Channel {
 public:
  JoinChannel(const JoinDisk& disk, uring::Loop& loop) noexcept : disk_(disk), loop_(loop) {}

  void start(Io& io) noexcept override {
    if (auto checked = check_io(disk_.info(), io); !checked) return io.on_done(checked);
    requests_.spawn(serve(io));
  }

 private:
  /// At most so many segments go into one system call.
  static constexpr std::size_t kSegments = 64;

  /// The last step: `io` belongs to its owner again.
  task::Task<> serve(Io& io) {
    const auto result = co_await perform(io);
    io.on_done(result);
  }

  task::Task<Result<>> perform(Io& io) {
    switch (io.kind) {
      case IoKind::kRead:
      case IoKind::kWrite: return transfer(io);
      case IoKind::kWriteZeroes: return write_zeroes(io);
      default: return flush();  // check_io() refuses what DiskInfo does not offer
    }
  }

  task::Task<Result<>> transfer(Io& io) {
    if (io.length == 0) co_return Result<>();
    const bool is_read = io.kind == IoKind::kRead;
    const auto access = is_read ? buf::MemoryAccess::kWritable : buf::MemoryAccess::kReadOnly;
    const auto locked = io.buffers.lock(access);
    if (!locked) co_return fail(locked.error());
    const auto moved = co_await move(io, buf::SegmentCursor(locked->segments()));
    if (!is_read) co_return moved;
    // After a failure as well: the kernel may have written.
    const auto marked = io.buffers.mark_written();
    co_return moved ? marked : moved;
  }

  /// Short transfers and the ends of pieces are two reasons for one more round.
  task::Task<Result<>> move(Io& io, buf::SegmentCursor cursor) {
    const bool is_read = io.kind == IoKind::kRead;
    std::uint64_t offset = io.offset.raw();
    const std::uint64_t end = offset + io.length;
    while (offset != end) {
      const Piece& piece = disk_.piece_at(offset);
      std::array<buf::IoBuffer, kSegments> segments;
      const std::size_t count = fill(segments, cursor, std::min(end, piece.end) - offset);
      const auto buffers = buf::as_iovecs(std::span(segments).first(count));
      const uring::File file(piece.file.get());
      const FileOffset at(offset - piece.start);
      std::int32_t moved = 0;
      if (is_read) {
        moved = co_await uring::readv(loop_, file, buffers, at);
      } else {
        moved = co_await uring::writev(loop_, file, buffers, at);
      }
      if (moved < 0)
        co_return fail(Error::host(-moved, is_read ? "read a piece" : "write a piece"));
      if (moved == 0) co_return fail(ErrorKind::kShortTransfer, "a piece that shrank", offset, end);
      cursor.advance(static_cast<std::size_t>(moved));
      offset += static_cast<std::uint64_t>(moved);
    }
    co_return Result<>();
  }

  /// The first segments from `cursor` on, up to `bytes` bytes. Returns their number.
  static std::size_t fill(std::span<buf::IoBuffer> segments, buf::SegmentCursor cursor,
                          std::uint64_t bytes) noexcept {
    std::size_t count = 0;
    while (bytes != 0 && count < segments.size()) {
      const buf::IoBuffer run = cursor.run();
      const std::size_t length = std::min<std::uint64_t>(run.length, bytes);
      segments[count++] = run.subsegment(0, length);
      cursor.advance(length);
      bytes -= length;
    }
    return count;
  }

  task::Task<Result<>> write_zeroes(Io& io) {
    std::uint64_t offset = io.offset.raw();
    const std::uint64_t end = offset + io.length;
    while (offset != end) {
      const Piece& piece = disk_.piece_at(offset);
      const std::uint64_t length = std::min(std::min(end, piece.end) - offset, kZeroes.size());
      const std::int32_t moved =
          co_await uring::write(loop_, uring::File(piece.file.get()),
                                std::span(kZeroes).first(length), FileOffset(offset - piece.start));
      if (moved < 0) co_return fail(Error::host(-moved, "zero a piece"));
      if (moved == 0) co_return fail(ErrorKind::kShortTransfer, "zero a piece", offset, end);
      offset += static_cast<std::uint64_t>(moved);
    }
    co_return Result<>();
  }

  static task::Task<Result<>> flush() { co_return Result<>(); }

  const JoinDisk& disk_;
  uring::Loop& loop_;
  task::Scope requests_;
};

std::unexpected<OpenFailure> refuse(const Error& error, std::string detail) {
  return std::unexpected(OpenFailure{error, std::move(detail)});
}

std::vector<std::string> paths_of(std::string_view uri) {
  std::vector<std::string> paths;
  std::string_view rest = after_scheme(uri);
  while (true) {
    const auto colon = rest.find(':');
    paths.emplace_back(rest.substr(0, colon));
    if (colon == std::string_view::npos) return paths;
    rest.remove_prefix(colon + 1);
  }
}

OpenResult<UniqueFd> open_piece(const std::string& path, const OpenOptions& options) {
  const int flags = (options.is_read_only ? O_RDONLY : O_RDWR | O_DSYNC) | O_CLOEXEC;
  UniqueFd file(::open(path.c_str(), flags));
  if (!file) {
    const Error error = Error::from_errno("open a piece");
    return refuse(error, path + ": " + error.to_string());
  }
  return file;
}

/// Of an open file description: it goes with the descriptor to a successor, and ends with the last
/// process that has it.
OpenResult<void> lock_piece(const UniqueFd& file, const OpenOptions& options) {
  struct flock whole{};
  whole.l_type = options.is_read_only ? F_RDLCK : F_WRLCK;
  whole.l_whence = SEEK_SET;
  if (::fcntl(file.get(), F_OFD_SETLK, &whole) == 0) return {};
  if (errno != EAGAIN) return refuse(Error::from_errno("lock the first piece"), {});
  return refuse(Error::make(ErrorKind::kBusy, "the first piece"), "in use by another process");
}

/// Sets the range of `piece`, which begins at `start`.
OpenResult<void> measure(Piece& piece, std::uint64_t start, const OpenOptions& options,
                         const std::string& path) {
  struct stat status{};
  if (::fstat(piece.file.get(), &status) != 0) {
    return refuse(Error::from_errno("size of a piece"), path);
  }
  const auto size = static_cast<std::uint64_t>(status.st_size);
  const std::uint64_t block = options.block_size.raw();
  if (!S_ISREG(status.st_mode) || size == 0 || size % block != 0) {
    return refuse(Error::make(ErrorKind::kInvalidArgument, "size of a piece", size, block),
                  path + ": not a file of whole blocks");
  }
  piece.start = start;
  piece.end = start + size;
  return {};
}

OpenResult<void> check(const OpenOptions& options) {
  if (!options.settings.empty()) {
    return refuse(Error::make(ErrorKind::kUnsupported, "settings of a joined disk"),
                  options.settings.begin()->first + " is unknown");
  }
  if (options.is_claimed_in_use) {
    return refuse(Error::make(ErrorKind::kUnsupported, "a joined disk"),
                  "locked while it is open, never in use only");
  }
  if (auto valid = check_block_size(options.block_size); !valid) return refuse(valid.error(), {});
  return {};
}

}  // namespace

JoinDisk::JoinDisk(const DiskInfo& info, std::vector<Piece> pieces) noexcept
    : info_(info), pieces_(std::move(pieces)) {}

OpenResult<std::shared_ptr<JoinDisk>> JoinDisk::open(const OpenOptions& options, UniqueFd first) {
  if (auto valid = check(options); !valid) return std::unexpected(valid.error());
  std::vector<Piece> pieces;
  std::uint64_t size = 0;
  for (const std::string& path : paths_of(options.uri)) {
    Piece& piece = pieces.emplace_back();
    piece.file = std::exchange(first, UniqueFd());
    if (!piece.file) {
      auto opened = open_piece(path, options);
      if (!opened) return std::unexpected(opened.error());
      piece.file = std::move(*opened);
    }
    if (auto done = measure(piece, size, options, path); !done)
      return std::unexpected(done.error());
    size = piece.end;
  }
  if (auto locked = lock_piece(pieces.front().file, options); !locked) {
    return std::unexpected(locked.error());
  }
  DiskInfo info;
  info.size = ByteCount(size);
  info.block_size = options.block_size;
  info.is_read_only = options.is_read_only;
  if (!options.is_read_only) {
    info.write_zeroes = RangeLimits{ByteCount(kMaxZeroes), options.block_size};
  }
  return std::shared_ptr<JoinDisk>(new JoinDisk(info, std::move(pieces)));
}

Result<std::unique_ptr<Channel>> JoinDisk::open_channel(uring::Loop& loop, ByteCount) {
  return std::make_unique<JoinChannel>(*this, loop);
}

Result<ByteCount> JoinDisk::refresh_size() {
  return fail(ErrorKind::kUnsupported, "resize of a joined disk");
}

DiskStatus JoinDisk::status() const {
  DiskStatus status;
  status.backend = "join";
  return status;
}

Result<DiskSnapshot> JoinDisk::snapshot() const {
  auto first = duplicate_fd(pieces_.front().file);
  if (!first) return fail(first.error());
  DiskSnapshot snapshot;
  snapshot.io = std::move(*first);
  snapshot.size = info_.size;
  return snapshot;
}

const Piece& JoinDisk::piece_at(std::uint64_t offset) const noexcept {
  return *std::ranges::upper_bound(pieces_, offset, {}, &Piece::end);
}

}  // namespace join
