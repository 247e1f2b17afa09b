// SPDX-License-Identifier: MIT
// A process with a low limit of descriptors: its diagnostics at start, and the isolation of its
// disks.
#include <sys/resource.h>

#include <charconv>
#include <string_view>

#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

using vhost::FrontendRequest;

// UBSan is built together with ASan.
#if defined(__has_feature)
constexpr bool kIsVptrChecked = __has_feature(address_sanitizer);
#else
constexpr bool kIsVptrChecked = false;
#endif

constexpr vhost::ProtocolBits kWithSlots = vhost::kProtocolMq | vhost::kProtocolConfig |
                                           vhost::kProtocolReplyAck |
                                           vhost::kProtocolConfigureMemSlots;

/// Two disks, "one" and "two", in a process with a limit.
class DescriptorShortageTest : public BackendTest {
 protected:
  std::vector<std::string> two_disks() const {
    return {"--disk", "name=one,socket-path=" + socket_ + ",blk-file=" + image_, "--disk",
            "name=two,socket-path=" + other_socket_ + ",blk-file=" + other_image_};
  }
  static std::vector<std::string> limited(std::uint64_t limit,
                                          const std::vector<std::string>& more) {
    std::vector<std::string> words = {"/bin/sh", "-c", "ulimit -n \"$0\"; exec \"$@\"",
                                      std::to_string(limit), kBackendProgram};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  /// Learns the required limit from a refused start, then starts with it.
  void start_with_required_limit() {
    testing::ChildProcess refused(limited(64, two_disks()));
    ASSERT_EQ(refused.wait(), 2) << refused.output();
    start_with(required_limit_in(refused.output()));
  }
  void start_with(std::uint64_t limit) {
    backend_ = std::make_unique<testing::ChildProcess>(limited(limit, two_disks()));
    ASSERT_TRUE(backend_->wait_for_output("ready ")) << backend_->output();
  }
  /// The limit that the operator is told to set.
  static std::uint64_t required_limit_in(const std::string& output) {
    constexpr std::string_view kWords = "ulimit -n to at least ";
    const auto at = output.find(kWords);
    EXPECT_NE(at, std::string::npos) << output;
    std::uint64_t required = 0;
    if (at != std::string::npos) {
      std::from_chars(output.data() + at + kWords.size(), output.data() + output.size(), required);
    }
    return required;
  }
  std::unique_ptr<testing::BlkGuest> connect_to_other() {
    auto guest = testing::BlkGuest::connect(other_socket_, {.protocol = kWithSlots});
    EXPECT_TRUE(guest.has_value()) << guest.error().to_string() << backend_->output();
    return guest ? std::move(*guest) : nullptr;
  }
  std::uint64_t offered_slots(testing::BlkGuest& guest) {
    vhost::Message answer;
    const auto asked = guest.frontend().send_and_receive(
        std::to_underlying(FrontendRequest::kGetMaxMemSlots), {}, {}, answer);
    return asked ? answer.as<std::uint64_t>().value_or(0) : 0;
  }
  /// Adds regions of one page until one is refused. Returns the number of accepted ones.
  std::size_t fill_slots(testing::BlkGuest& guest) {
    const auto table = guest.memory().region();
    for (std::size_t count = 0;; ++count) {
      const vhost::SingleMemoryRegion message{
          0, {0x8'0000'0000 + count * 4096, 4096, 0x7000'0000'0000 + count * 4096, 0}};
      const auto told = guest.frontend().send_message(
          std::to_underlying(FrontendRequest::kAddMemReg), std::as_bytes(std::span(&message, 1)),
          std::span(&table.fd, 1));
      if (!told) return count;
    }
  }
  /// Sets the process's limit from outside.
  void limit_to(std::uint64_t soft) {
    rlimit limit{};
    ASSERT_EQ(::prlimit(backend_->pid(), RLIMIT_NOFILE, nullptr, &limit), 0);
    limit.rlim_cur = soft;
    ASSERT_EQ(::prlimit(backend_->pid(), RLIMIT_NOFILE, &limit, nullptr), 0);
  }
  bool has_logged(const std::string& words) const {
    return backend_->output().find(words) != std::string::npos;
  }

  const std::string other_socket_ = folder_.file("s2");
  const std::string other_image_ = folder_.make_image("disk2.img", kImageBytes);
};

TEST_F(DescriptorShortageTest, Rule48ALowLimitIsRejectedAtStartWithTheRequiredValue) {
  testing::ChildProcess refused(limited(64, two_disks()));
  EXPECT_EQ(refused.wait(), 2);
  const std::string output = refused.output();
  EXPECT_EQ(std::ranges::count(output, '\n'), 1) << output;
  EXPECT_NE(output.find("disk one: needs "), std::string::npos) << output;
  EXPECT_NE(output.find("limit of 64"), std::string::npos) << output;
  const std::uint64_t required = required_limit_in(output);
  ASSERT_GT(required, 64u);
  testing::ChildProcess still_refused(limited(required - 1, two_disks()));
  EXPECT_EQ(still_refused.wait(), 2) << "one less is not enough";
  start_with(required);
  expect_alive();
  stop();
}

TEST_F(DescriptorShortageTest, Rule48AFrontEndAtItsLimitLeavesOtherDisksTheirDescriptors) {
  start_with_required_limit();
  const auto greedy = connect({.protocol = kWithSlots});
  ASSERT_NE(greedy, nullptr);
  const std::uint64_t slots = offered_slots(*greedy);
  EXPECT_GE(slots, 32u);
  EXPECT_LT(slots, 509u);
  EXPECT_EQ(fill_slots(*greedy), slots - 1) << "the ring's region uses one slot";
  // Another front-end connects, and its rings and eventfds change.
  const auto other = connect_to_other();
  ASSERT_NE(other, nullptr);
  for (int round = 0; round < 100; ++round) {
    ASSERT_EQ(other->read(0, 4096).status, 0);
    ASSERT_TRUE(other->queue().stop(other->frontend()));
    ASSERT_TRUE(other->queue().resume(other->frontend()));
  }
  EXPECT_EQ(fill_slots(*other), slots - 1);
  EXPECT_EQ(greedy->read(0, 4096).status, 0);
  EXPECT_FALSE(has_logged("host failure")) << backend_->output();
  stop();
}

TEST_F(DescriptorShortageTest, Rule48AShortageIsAHostFailureOfItsDiskOnly) {
  if (kIsVptrChecked) GTEST_SKIP() << "UBSan opens a pipe for its type checks";
  start_with(1024);
  const auto other = connect_to_other();
  ASSERT_NE(other, nullptr);
  const auto expect_service = [&] {
    const std::vector<std::byte> data(4096, std::byte{7});
    for (int round = 0; round < 500; ++round) {
      ASSERT_EQ(other->write(8, data).status, 0);
      ASSERT_EQ(other->read(8, 4096).data, data);
    }
  };
  expect_service();
  // Open descriptors stay; only the accept already submitted can still open one.
  limit_to(3);
  const vhost::FrontendMemory memory = std::move(*vhost::FrontendMemory::create(1 << 20));
  const auto region = memory.region();
  auto first = vhost::Frontend::connect(socket_, {.deadline = std::chrono::seconds(60)});
  ASSERT_TRUE(first.has_value());
  ASSERT_TRUE(first->negotiate(vhost::kFeatureProtocolFeatures, kWithSlots));
  const auto set = first->set_mem_table(std::span(&region, 1));
  ASSERT_FALSE(set.has_value());
  EXPECT_EQ(set.error().kind, ErrorKind::kClosed) << set.error().to_string();
  auto second = vhost::Frontend::connect(socket_, {.deadline = std::chrono::seconds(60)});
  ASSERT_TRUE(second.has_value());
  EXPECT_TRUE(backend_->wait_for_output("one: host failure: front-end not accepted yet"))
      << backend_->output();
  expect_service();
  limit_to(1024);
  ASSERT_TRUE(second->negotiate(vhost::kFeatureProtocolFeatures, kWithSlots));
  EXPECT_TRUE(second->set_mem_table(std::span(&region, 1)));
  EXPECT_TRUE(
      has_logged("one: host failure: connection ends: receive descriptors: Too "
                 "many open files (limit 3: raise LimitNOFILE= or ulimit -n)"))
      << backend_->output();
  EXPECT_FALSE(has_logged("protocol violation")) << backend_->output();
  stop();
}

}  // namespace
}  // namespace guestio::tests
