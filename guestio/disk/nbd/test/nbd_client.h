// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "guestio/disk/nbd/test/nbd_subject.h"

namespace guestio::testing {

/// A disk of an NBD server with channels, their loop, and requests on 1 MiB of guest memory.
class NbdClient {
 public:
  explicit NbdClient(const std::string& uri,
                     std::chrono::milliseconds io_timeout = std::chrono::seconds(30)) {
    EXPECT_TRUE(mem::install_fault_recovery());
    disk::OpenOptions options;
    options.uri = uri;
    auto target = disk::parse_nbd_target(options);
    EXPECT_TRUE(target.has_value());
    target->io_timeout = io_timeout;
    auto opened = disk::NbdDisk::open(*target, options, target->io_timeout);
    if (!opened) {
      failure_ = opened.error().to_string();
      return;
    }
    disk_ = std::move(*opened);
    add_channel();
  }
  /// On an open NbdDisk.
  explicit NbdClient(std::shared_ptr<disk::Disk> disk)
      : disk_(std::static_pointer_cast<disk::NbdDisk>(std::move(disk))) {
    add_channel();
  }
  ~NbdClient() {
    channels_.clear();
    loop_->run_until_idle();
  }

  /// Why the disk did not open; empty if it did.
  [[nodiscard]] const std::string& failure() const noexcept { return failure_; }
  [[nodiscard]] disk::NbdDisk& disk() noexcept { return *disk_; }
  [[nodiscard]] uring::Loop& loop() noexcept { return *loop_; }
  disk::Channel& add_channel() {
    auto channel = disk_->open_channel(*loop_, ByteCount(std::uint64_t{8} << 20));
    EXPECT_TRUE(channel.has_value());
    (*channel)->on_available([this] { ++available_; });
    channels_.push_back(std::move(*channel));
    return *channels_.back();
  }
  /// Calls of on_available().
  [[nodiscard]] int available() const noexcept { return available_; }

  /// Starts a request on guest memory at its offset in the disk (up to 1 MiB).
  TestIo& start(disk::IoKind kind, std::uint64_t offset, std::uint64_t length = 4096,
                std::size_t channel = 0) {
    TestIo& io = requests_.emplace_back();
    io.kind = kind;
    io.offset = FileOffset(offset);
    if (kind != disk::IoKind::kFlush) io.length = length;
    if (kind == disk::IoKind::kRead || kind == disk::IoKind::kWrite) {
      io.extents = {mem::AddressRange::from_checked(Gpa(offset), length)};
      const auto access =
          kind == disk::IoKind::kRead ? buf::MemoryAccess::kWritable : buf::MemoryAccess::kReadOnly;
      io.buffers = *buf::RequestBuffers::from_extents(memory_, io.extents, access);
    }
    channels_[channel]->start(io);
    return io;
  }
  Result<> wait(TestIo& io) {
    run_until([&io] { return io.result.has_value(); });
    EXPECT_EQ(io.times_done, 1);
    return *io.result;
  }
  Result<> perform(disk::IoKind kind, std::uint64_t offset, std::uint64_t length = 4096) {
    return wait(start(kind, offset, length));
  }
  /// Writes `length` bytes of `value`.
  Result<> fill(std::uint64_t offset, char value, std::uint64_t length = 4096) {
    set_memory(offset, value, length);
    return perform(disk::IoKind::kWrite, offset, length);
  }
  void set_memory(std::uint64_t offset, char value, std::uint64_t length = 4096) {
    const std::vector<std::byte> bytes(length, static_cast<std::byte>(value));
    EXPECT_TRUE(memory_.write(Gpa(offset), bytes));
  }
  /// The first byte of what the disk has; '?' after an error.
  char look(std::uint64_t offset, std::size_t channel = 0) {
    set_memory(offset, '!');
    if (!wait(start(disk::IoKind::kRead, offset, 4096, channel))) return '?';
    std::vector<std::byte> byte(1);
    EXPECT_TRUE(memory_.read(Gpa(offset), byte));
    return static_cast<char>(byte[0]);
  }
  void run_until(const std::function<bool()>& is_done) { RunUntil(*loop_, is_done); }
  /// As run_until(), for a condition that another thread fulfils.
  [[nodiscard]] bool poll_until(const std::function<bool()>& is_done) {
    return guestio::wait_until([&] {
      loop_->stop();
      loop_->run();  // one iteration
      return is_done();
    });
  }
  /// Runs until the server is back after `seen` earlier returns.
  void wait_for_return(int seen = 0) {
    run_until([&] { return available_ > seen; });
  }

 private:
  std::string failure_;
  mem::GuestMemory memory_ = *mem::GuestMemory::allocate(ByteCount(std::uint64_t{1} << 20));
  std::unique_ptr<uring::Loop> loop_ = std::move(*uring::Loop::create());
  std::deque<TestIo> requests_;
  std::shared_ptr<disk::NbdDisk> disk_;
  std::vector<std::unique_ptr<disk::Channel>> channels_;
  int available_ = 0;
};

/// The kind of error of a result; kUnsupported of a success.
inline ErrorKind kind_of(const Result<>& result) {
  return result ? ErrorKind::kUnsupported : result.error().kind;
}

}  // namespace guestio::testing
