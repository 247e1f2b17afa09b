// SPDX-License-Identifier: MIT
#include "guestio/base/write_with_timeout.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <string>

#include "guestio/base/unique_fd.h"

namespace guestio {
namespace {

struct Ends {
  UniqueFd reader;
  UniqueFd writer;
};

Ends make_pipe() {
  std::array<int, 2> ends{};
  EXPECT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

Ends make_sockets() {
  std::array<int, 2> ends{};
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

/// Writes pages until the descriptor is full. Returns their number.
int fill(const UniqueFd& writer) {
  const std::string page(4096, 'x');
  int pages = 0;
  while (write_with_timeout(writer.get(), page)) ++pages;
  return pages;
}

TEST(WriteWithTimeout, WritesToAPipeUntilItIsFullWithoutWaiting) {
  const Ends ends = make_pipe();
  const int pages = fill(ends.writer);
  EXPECT_EQ(pages * 4096, ::fcntl(ends.writer.get(), F_GETPIPE_SZ));
  EXPECT_EQ(::fcntl(ends.writer.get(), F_GETFL) & O_NONBLOCK, 0) << "the open file is shared";
}

TEST(WriteWithTimeout, WritesToASocketUntilItIsFullWithoutWaiting) {
  const Ends ends = make_sockets();
  EXPECT_GT(fill(ends.writer), 0);
  EXPECT_EQ(::fcntl(ends.writer.get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST(WriteWithTimeout, AClosedPeerRaisesNoSignal) {
  Ends ends = make_sockets();
  ends.reader.reset();
  EXPECT_FALSE(write_with_timeout(ends.writer.get(), "text"));
}

TEST(WriteWithTimeout, WritesAllToAFile) {
  std::array<char, 16> bytes{};
  const UniqueFd file(::open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  ASSERT_TRUE(file);
  EXPECT_TRUE(write_with_timeout(file.get(), "some text"));
  EXPECT_EQ(::pread(file.get(), bytes.data(), bytes.size(), 0), 9);
}

TEST(WriteWithTimeout, AClosedDescriptorIsAFailure) {
  EXPECT_FALSE(write_with_timeout(-1, "text"));
}

}  // namespace
}  // namespace guestio
