// SPDX-License-Identifier: MIT
#include "guestio/uring/awaitables.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/un.h>

#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "guestio/base/unique_fd.h"
#include "guestio/task/task.h"
#include "guestio/uring/run_task.h"

namespace guestio::uring {
namespace {

using task::Task;

class Awaitables : public ::testing::TestWithParam<RingMode> {
 protected:
  void SetUp() override {
    auto loop = Loop::create({.ring = {.mode = GetParam()}});
    ASSERT_TRUE(loop) << loop.error().to_string();
    loop_ = std::move(*loop);
    file_fd_.reset(::memfd_create("test", MFD_CLOEXEC));
    ASSERT_EQ(::ftruncate(file_fd_.get(), 65536), 0);
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair_.data()), 0);
    left_.reset(pair_[0]);
    right_.reset(pair_[1]);
  }

  File file() const { return File(file_fd_.get()); }

  std::unique_ptr<Loop> loop_;
  UniqueFd file_fd_;
  std::array<int, 2> pair_{};
  UniqueFd left_;
  UniqueFd right_;
};

INSTANTIATE_TEST_SUITE_P(Modes, Awaitables,
                         ::testing::Values(RingMode::kDeferred, RingMode::kCooperative,
                                           RingMode::kPlain),
                         [](const auto& info) { return to_text(info.param); });

std::vector<std::byte> pattern(std::size_t size) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 7 + 1);
  return bytes;
}

struct RoundTrip {
  std::int32_t written = 0;
  std::int32_t read = 0;
  std::vector<std::byte> bytes;
};

Task<RoundTrip> write_then_read(Loop& loop, File file, const std::vector<std::byte>& data) {
  RoundTrip result;
  result.bytes.resize(data.size());
  result.written = co_await write(loop, file, data, FileOffset(4096));
  result.read = co_await read(loop, file, result.bytes, FileOffset(4096));
  co_return result;
}

TEST_P(Awaitables, ReadReturnsTheWrittenBytes) {
  const auto data = pattern(5000);
  const RoundTrip result = run_task(*loop_, write_then_read(*loop_, file(), data));
  EXPECT_EQ(result.written, 5000);
  EXPECT_EQ(result.read, 5000);
  EXPECT_EQ(result.bytes, data);
}

TEST_P(Awaitables, RegisteredFilesWorkLikePlainOnes) {
  const auto data = pattern(5000);
  const File registered = loop_->register_file(file_fd_.get());
  EXPECT_TRUE(registered.is_registered());
  const RoundTrip result = run_task(*loop_, write_then_read(*loop_, registered, data));
  EXPECT_EQ(result.bytes, data);
  loop_->unregister_file(registered);
}

Task<RoundTrip> write_then_read_vectored(Loop& loop, File file, std::vector<std::byte>& data) {
  RoundTrip result;
  result.bytes.resize(data.size());
  const std::array out{iovec{data.data(), 10}, iovec{data.data() + 10, data.size() - 10}};
  const std::array in{iovec{result.bytes.data(), data.size() - 3},
                      iovec{result.bytes.data() + data.size() - 3, 3}};
  result.written = co_await writev(loop, file, out, FileOffset(0), RWF_DSYNC);
  result.read = co_await readv(loop, file, in, FileOffset(0));
  co_return result;
}

TEST_P(Awaitables, VectoredTransfersGatherAndScatter) {
  auto data = pattern(1000);
  const RoundTrip result = run_task(*loop_, write_then_read_vectored(*loop_, file(), data));
  EXPECT_EQ(result.written, 1000);
  EXPECT_EQ(result.read, 1000);
  EXPECT_EQ(result.bytes, data);
}

Task<std::int32_t> write_with_flags(Loop& loop, File file, int flags) {
  const std::byte byte{1};
  const iovec buffer{const_cast<std::byte*>(&byte), 1};
  co_return co_await writev(loop, file, std::span(&buffer, 1), FileOffset(0), flags);
}

TEST_P(Awaitables, RwfFlagsReachTheKernel) {
  constexpr int kNoSuchFlag = 1 << 30;
  EXPECT_EQ(run_task(*loop_, write_with_flags(*loop_, file(), kNoSuchFlag)), -EOPNOTSUPP);
}

Task<std::int32_t> sync_file(Loop& loop, File file, SyncKind kind) {
  co_return co_await fsync(loop, file, kind);
}

TEST_P(Awaitables, SyncsFiles) {
  EXPECT_EQ(run_task(*loop_, sync_file(*loop_, file(), SyncKind::kAll)), 0);
  EXPECT_EQ(run_task(*loop_, sync_file(*loop_, file(), SyncKind::kData)), 0);
  EXPECT_EQ(run_task(*loop_, sync_file(*loop_, File(-1), SyncKind::kData)), -EBADF);
}

Task<std::int32_t> punch(Loop& loop, File file, FileOffset offset, ByteCount length) {
  co_return co_await fallocate(loop, file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                               length);
}

TEST_P(Awaitables, PunchesHoles) {
  const auto data = pattern(8192);
  ASSERT_EQ(::pwrite(file_fd_.get(), data.data(), data.size(), 0), 8192);
  EXPECT_EQ(run_task(*loop_, punch(*loop_, file(), FileOffset(4096), ByteCount(4096))), 0);
  std::byte byte{9};
  ASSERT_EQ(::pread(file_fd_.get(), &byte, 1, 4096), 1);
  EXPECT_EQ(byte, std::byte{0});
  ASSERT_EQ(::pread(file_fd_.get(), &byte, 1, 4095), 1);
  EXPECT_EQ(byte, data[4095]);
}

Task<std::int32_t> send_text(Loop& loop, File socket, std::string text) {
  iovec buffer{text.data(), text.size()};
  msghdr message{};
  message.msg_iov = &buffer;
  message.msg_iovlen = 1;
  co_return co_await sendmsg(loop, socket, message);
}

Task<std::string> receive_text(Loop& loop, File socket) {
  std::string text(100, '\0');
  iovec buffer{text.data(), text.size()};
  msghdr message{};
  message.msg_iov = &buffer;
  message.msg_iovlen = 1;
  const std::int32_t result = co_await recvmsg(loop, socket, message);
  text.resize(result > 0 ? static_cast<std::size_t>(result) : 0);
  co_return text;
}

TEST_P(Awaitables, MessagesCrossASocketPair) {
  EXPECT_EQ(run_task(*loop_, send_text(*loop_, File(left_.get()), "hello")), 5);
  EXPECT_EQ(run_task(*loop_, receive_text(*loop_, File(right_.get()))), "hello");
}

Task<std::int32_t> connect_to(Loop& loop, File socket, const sockaddr_un& address) {
  // Safe: that is how the sockets interface passes addresses.
  co_return co_await connect(loop, socket, reinterpret_cast<const sockaddr&>(address),
                             sizeof(address));
}

Task<> accept_one(Loop& loop, File socket, std::int32_t& result) {
  result = co_await accept(loop, socket);
}

TEST_P(Awaitables, ConnectMeetsAccept) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = "guestio-awaitables-" + std::to_string(::getpid());
  std::memcpy(address.sun_path + 1, name.data(), name.size());  // abstract: leaves no file
  const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  const UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));

  std::int32_t accepted = -1;
  {
    task::Scope scope;
    scope.spawn(accept_one(*loop_, File(listener.get()), accepted));
    EXPECT_EQ(run_task(*loop_, connect_to(*loop_, File(client.get()), address)), 0);
    loop_->run_until_idle();
  }
  const UniqueFd server(accepted);
  ASSERT_GE(accepted, 0);
  EXPECT_EQ(::fcntl(accepted, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
}

Task<std::int32_t> poll_for(Loop& loop, File file, unsigned events) {
  co_return co_await poll(loop, file, events);
}

TEST_P(Awaitables, PollReturnsTheEvents) {
  EXPECT_EQ(run_task(*loop_, poll_for(*loop_, File(left_.get()), POLLOUT)), POLLOUT);
}

Task<std::int32_t> sleep_for(Loop& loop, std::chrono::nanoseconds duration) {
  co_return co_await sleep(loop, duration);
}

TEST_P(Awaitables, SleepLastsAtLeastItsDuration) {
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(run_task(*loop_, sleep_for(*loop_, std::chrono::milliseconds(20))), 0);
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(20));
}

TEST_P(Awaitables, ANegativeSleepEndsAtOnce) {
  EXPECT_EQ(run_task(*loop_, sleep_for(*loop_, std::chrono::seconds(-5))), 0);
}

TEST_P(Awaitables, ErrorsAreNegativeErrnos) {
  const auto data = pattern(1);
  EXPECT_EQ(run_task(*loop_, write_then_read(*loop_, File(-1), data)).written, -EBADF);
}

Task<std::int32_t> read_past_the_end(Loop& loop, File file) {
  std::array<std::byte, 16> buffer{};
  co_return co_await read(loop, file, buffer, FileOffset(65536));
}

TEST_P(Awaitables, AReadAtEndOfFileReturnsZero) {
  EXPECT_EQ(run_task(*loop_, read_past_the_end(*loop_, file())), 0);
}

Task<std::int32_t> read_counter(Loop& loop, File file) {
  std::uint64_t count = 0;
  const std::int32_t result =
      co_await read(loop, file, std::as_writable_bytes(std::span(&count, 1)), kCurrentPosition);
  co_return result == 8 ? static_cast<std::int32_t>(count) : result;
}

TEST_P(Awaitables, EventfdsAreReadAtTheCurrentPosition) {
  const UniqueFd event(::eventfd(3, EFD_CLOEXEC));
  EXPECT_EQ(run_task(*loop_, read_counter(*loop_, File(event.get()))), 3);
}

}  // namespace
}  // namespace guestio::uring
