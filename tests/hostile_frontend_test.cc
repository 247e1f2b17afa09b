// SPDX-License-Identifier: MIT
// Front-ends that violate the protocol. Each test ends with a well-behaved front-end of the same
// process.
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>

#include "guestio/mem/recover.h"
#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

using vhost::FrontendRequest;
using virtio::Direction;
using Segment = virtio::DriverSegment;
using std::chrono::milliseconds;

class HostileFrontendTest : public BackendTest {
 protected:
  void SetUp() override { start(); }
  void truncate_under_load();
  void TearDown() override {
    expect_alive();
    stop();
  }

  /// A fresh connection without messages.
  UniqueFd connect_socket() {
    UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    socket_.copy(address.sun_path, sizeof address.sun_path - 1);
    EXPECT_EQ(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address),
              0);
    return socket;
  }
  void send_bytes(std::span<const std::byte> bytes) {
    const UniqueFd socket = connect_socket();
    (void)!::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }
  void send_header(std::uint32_t request, std::uint32_t flags, std::uint32_t size) {
    const vhost::MessageHeader header{request, flags, size};
    send_bytes(std::as_bytes(std::span(&header, 1)));
  }
  template <typename T>
  Result<> tell(testing::BlkGuest& guest, FrontendRequest request, const T& payload,
                std::span<const int> fds = {}) {
    return guest.frontend().send_message(static_cast<std::uint32_t>(request),
                                         std::as_bytes(std::span(&payload, 1)), fds);
  }
  static bool is_refused(const Result<>& result) {
    return !result && result.error().kind == ErrorKind::kPeerFault;
  }
};

TEST_F(HostileFrontendTest, RandomBytesEndOnlyTheirConnection) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::byte> bytes(1 + random() % 300);
    for (auto& byte : bytes) byte = static_cast<std::byte>(random());
    send_bytes(bytes);
  }
}

TEST_F(HostileFrontendTest, ATruncatedOrOversizedMessageEndsItsConnection) {
  send_header(1, 0, 0);           // no version
  send_header(1, 1, 0xffffffff);  // oversized
  send_header(5, 1, 100);         // a payload that is never sent
  send_bytes(std::vector<std::byte>(5));
}

TEST_F(HostileFrontendTest, UnknownAndUnnegotiatedMessagesAreRefusedAndNotFatal) {
  const auto guest = connect();
  for (const std::uint32_t request : {19U, 20U, 21U, 22U, 26U, 28U, 32U, 34U, 37U, 38U, 39U, 99U}) {
    EXPECT_TRUE(is_refused(guest->frontend().send_message(request, {}))) << request;
  }
  EXPECT_EQ(guest->read(0, 512).status, 0);
}

TEST_F(HostileFrontendTest, RingIndicesOutOfRangeAreRefused) {
  const auto guest = connect();
  EXPECT_TRUE(is_refused(guest->frontend().set_vring_num(1, 64)));
  EXPECT_TRUE(is_refused(guest->frontend().set_vring_base(0x80000000, 0)));
  EXPECT_TRUE(is_refused(guest->frontend().set_vring_enable(7, true)));
  EXPECT_TRUE(is_refused(
      tell(*guest, FrontendRequest::kSetVringAddr, vhost::VringAddress{99, 0, 0, 0, 0, 0})));
}

TEST_F(HostileFrontendTest, ARunningRingCannotBeMoved) {
  const auto guest = connect();
  EXPECT_TRUE(is_refused(guest->frontend().set_vring_num(0, 32)));
  EXPECT_TRUE(is_refused(guest->frontend().set_vring_base(0, 5)));
  EXPECT_TRUE(is_refused(guest->frontend().set_vring_addr({0, 0, 0, 0, 0, 0})));
  EXPECT_EQ(guest->read(0, 512).status, 0);
}

TEST_F(HostileFrontendTest, SplitRingSizesOtherThanPowersOfTwoAreRefused) {
  const auto guest = connect();
  ASSERT_TRUE(guest->queue().stop(guest->frontend()));
  for (const std::uint32_t size : {0U, 3U, 65536U, 0xffffffffU}) {
    EXPECT_TRUE(is_refused(guest->frontend().set_vring_num(0, size))) << size;
  }
}

TEST_F(HostileFrontendTest, RingsOutsideMemoryOrMisalignedAreRefused) {
  const auto guest = connect();
  ASSERT_TRUE(guest->queue().stop(guest->frontend()));
  const auto base = vhost::FrontendMemory::frontend_address(guest->scratch()).raw();
  const vhost::VringAddress good{0, 0, base, base + 8192, base + 16384, 0};
  for (const auto& bad : {vhost::VringAddress{0, 0, base + 8, base + 8192, base + 16384, 0},
                          vhost::VringAddress{0, 0, base, base + 8193, base + 16384, 0}}) {
    EXPECT_TRUE(is_refused(guest->frontend().set_vring_addr(bad)));
  }
  ASSERT_TRUE(
      guest->frontend().set_vring_addr({0, 0, 0xfffffffffffff000, base + 8192, base + 16384, 0}));
  // The start fails, not the message.
  EXPECT_TRUE(is_refused(guest->frontend().set_vring_kick(0, std::nullopt)));
  ASSERT_TRUE(guest->frontend().set_vring_addr(good));
  EXPECT_TRUE(guest->frontend().set_vring_kick(0, std::nullopt));
}

TEST_F(HostileFrontendTest, MalformedMemoryTablesAreRefused) {
  const auto guest = connect();
  const int fd = guest->memory().fd();
  const std::uint64_t size = guest->memory().whole().size;
  const auto table = [&](const std::vector<vhost::MemoryRegion>& regions) {
    std::vector<vhost::Frontend::Region> all;
    for (const auto& region : regions) all.push_back({region, fd});
    return guest->frontend().set_mem_table(all);
  };
  EXPECT_FALSE(table({{0, 0, 0x1000, 0}})) << "no bytes";
  EXPECT_FALSE(table({{0, 2 * size, 0x1000, 0}})) << "beyond the end of the file";
  EXPECT_FALSE(table({{0, 4096, 0x1000, size}})) << "an offset at the end of the file";
  EXPECT_FALSE(table({{0, 4096, 0x1000, ~std::uint64_t{0} - 100}})) << "an offset that overflows";
  EXPECT_FALSE(table({{~std::uint64_t{0} - 4095, 8192, 0x1000, 0}})) << "beyond the address space";
  EXPECT_FALSE(table({{0, 8192, 0x1000, 0}, {4096, 8192, 0x9000, 0}})) << "overlapping regions";
  EXPECT_FALSE(table({{0, 4096, ~std::uint64_t{0} - 100, 0}}))
      << "beyond the front-end's address space";
  EXPECT_EQ(guest->read(0, 512).status, 0) << "the previous table stays in use";
}

TEST_F(HostileFrontendTest, MissingAndExcessDescriptorsAreRefused) {
  const auto guest = connect();
  const int fd = guest->memory().fd();
  const std::uint64_t word = 0;
  EXPECT_TRUE(is_refused(tell(*guest, FrontendRequest::kSetVringKick, word)));
  EXPECT_TRUE(is_refused(tell(*guest, FrontendRequest::kSetVringCall, word, std::array{fd, fd})));
  EXPECT_TRUE(is_refused(tell(*guest, FrontendRequest::kSetVringKick, word, std::array{fd})))
      << "not an eventfd";
  const vhost::MemoryTableHeader empty{0, 0};
  EXPECT_TRUE(is_refused(tell(*guest, FrontendRequest::kSetMemTable, empty)));
  const vhost::MemoryTableHeader liar{8, 0};
  EXPECT_TRUE(is_refused(tell(*guest, FrontendRequest::kSetMemTable, liar, std::array{fd})));
}

TEST_F(HostileFrontendTest, DescriptorsOfRefusedMessagesAreClosed) {
  const auto guest = connect();
  const int fd = guest->memory().fd();
  const int before = backend_->descriptor_count(fd);
  ASSERT_GT(before, 0) << "the memory itself";
  for (int round = 0; round < 50; ++round) {
    EXPECT_FALSE(guest->frontend().send_message(99, {}, std::array{fd, fd, fd}));
    EXPECT_FALSE(
        tell(*guest, FrontendRequest::kSetVringCall, std::uint64_t{0}, std::array{fd, fd}));
  }
  EXPECT_TRUE(backend_->wait_for_descriptor_count(fd, before)) << backend_->descriptor_count(fd);
}

TEST_F(HostileFrontendTest, ConfigAccessOutOfRangeGetsAnEmptyReply) {
  const auto guest = connect();
  std::array<std::byte, 256> space{};
  EXPECT_FALSE(guest->frontend().get_config(0, space));
  EXPECT_FALSE(guest->frontend().get_config(0xffffffff, std::span(space).first(4)));
  EXPECT_TRUE(guest->frontend().get_config(8, std::span(space).first(3)));
  EXPECT_FALSE(guest->frontend().set_config(0, std::span(space).first(8), 0)) << "the capacity";
  EXPECT_FALSE(guest->frontend().set_config(32, std::span(space).first(1), 7)) << "flags";
}

TEST_F(HostileFrontendTest, ASecondFrontEndWaitsWithoutDisturbingTheFirst) {
  auto first = connect();
  const UniqueFd second = connect_socket();
  const vhost::MessageHeader header{1, 1, 0};
  ASSERT_EQ(::send(second.get(), &header, sizeof header, 0), static_cast<ssize_t>(sizeof header));
  for (int round = 0; round < 100; ++round) ASSERT_EQ(first->read(0, 4096).status, 0);
  first.reset();
  // Now the second front-end is served.
  std::array<std::byte, 20> reply{};
  EXPECT_EQ(::recv(second.get(), reply.data(), reply.size(), MSG_WAITALL), 20);
}

TEST_F(HostileFrontendTest, FrontEndsMayReconnect) {
  for (int round = 0; round < 30; ++round) {
    const auto guest = connect({.first_index = static_cast<std::uint16_t>(round * 5000)});
    ASSERT_NE(guest, nullptr);
    ASSERT_EQ(guest->read(0, 4096).status, 0);
  }
}

TEST_F(HostileFrontendTest, Rule12FrequentReconnectsDoNotFloodTheLog) {
  const auto began = std::chrono::steady_clock::now();
  for (int round = 0; round < 500; ++round) send_header(1, 0, 0);
  for (int round = 0; round < 20; ++round) {
    const auto guest = connect();
    for (int i = 0; i < 50; ++i) EXPECT_FALSE(guest->frontend().send_message(99, {}));
  }
  EXPECT_LT(std::ranges::count(backend_->output(), '\n'), 300 + max_log_lines_since(began))
      << "of more than two thousand lines";
}

TEST_F(HostileFrontendTest, Rule27AMalformedChainWithAStatusByteReturnsAnError) {
  const auto guest = connect();
  const vhost::SharedRange scratch = guest->scratch();
  const Gpa memory = scratch.gpa;
  const auto send = [&](std::vector<Segment> chain) {
    *scratch.host = std::byte{0};  // as after an earlier success
    EXPECT_EQ(guest->send_chain(chain), 1u);
    EXPECT_EQ(*scratch.host, std::byte{1});
  };
  const Segment status{memory, 1, Direction::kWritable};
  SCOPED_TRACE("no header, but a status");
  send({status});
  SCOPED_TRACE("writable before readable");
  send({status, {memory, 16, Direction::kReadable}});
  SCOPED_TRACE("a header outside memory");
  send({{Gpa(0), 16, Direction::kReadable}, status});
  SCOPED_TRACE("an address that overflows");
  send({{Gpa(~std::uint64_t{0} - 3), 16, Direction::kReadable}, status});
  SCOPED_TRACE("more than 4 GiB");
  send({{memory, 16, Direction::kReadable}, {memory, 0xffffffff, Direction::kWritable}, status});
  EXPECT_EQ(guest->read(0, 512).status, 0) << "the ring keeps running";
}

TEST_F(HostileFrontendTest, MalformedRequestsGetAStatus) {
  const auto guest = connect();
  using Type = testing::BlkGuest::Type;
  const std::vector<std::byte> sector(512);
  EXPECT_EQ(guest->read(kImageBytes / 512, 512).status, 1) << "beyond the end";
  EXPECT_EQ(guest->read(kImageBytes / 512 - 1, 1024).status, 1) << "across the end";
  EXPECT_EQ(guest->read(~std::uint64_t{0}, 512).status, 1) << "overflow";
  EXPECT_EQ(guest->read(0, 100).status, 1) << "not a whole block";
  EXPECT_EQ(guest->write(~std::uint64_t{0} / 512, sector).status, 1);
  EXPECT_EQ(guest->perform(Type{77}, 0, {}, 512).status, 2) << "unknown type";
  EXPECT_EQ(guest->perform(Type::kGetId, 0, {}, 19).status, 1) << "no room for the ID";
  EXPECT_EQ(guest->perform(Type::kDiscard, 0, std::span(sector).first(15), 0).status, 1);
  EXPECT_EQ(guest->perform(Type::kDiscard, 0, {}, 0).status, 1);
  const virtio::blk::RangeSegment flags{0, 8, 0xff};
  EXPECT_EQ(guest->perform(Type::kDiscard, 0, std::as_bytes(std::span(&flags, 1)), 0).status, 2);
  const virtio::blk::RangeSegment far{~std::uint64_t{0}, 8, 0};
  EXPECT_EQ(guest->perform(Type::kDiscard, 0, std::as_bytes(std::span(&far, 1)), 0).status, 1);
  EXPECT_EQ(guest->perform(Type::kWriteZeroes, 0, std::as_bytes(std::span(&far, 1)), 0).status, 1);
}

TEST_F(HostileFrontendTest, AMalformedRingStopsAndTheNextFrontEndIsServed) {
  const auto guest = connect();
  // The available index is far ahead of the ring: the whole ring is malformed.
  std::mt19937_64 random(3);
  const vhost::SharedRange all = guest->memory().whole();
  for (int round = 0; round < 200; ++round) {
    for (std::size_t i = 0; i < 8192; ++i) all.host[i] = static_cast<std::byte>(random());
    (void)guest->queue().kick();
  }
}

void HostileFrontendTest::truncate_under_load() {
  ASSERT_TRUE(mem::install_fault_recovery());
  constexpr int kServedBefore = 50;
  const auto guest = connect();
  std::atomic<int> served = 0;
  std::jthread truncator([&served, fd = guest->memory().fd()] {
    while (served < kServedBefore) std::this_thread::yield();
    EXPECT_EQ(::ftruncate(fd, 0), 0);
  });
  const vhost::SharedRange scratch = guest->scratch();
  // Until the ring itself is inaccessible from either side.
  while (true) {
    const std::array chain = {
        Segment{scratch.gpa, 16, Direction::kReadable},
        Segment{scratch.gpa.plus_unchecked(4096), 1 << 20, Direction::kWritable},
        Segment{scratch.gpa.plus_unchecked(64), 1, Direction::kWritable}};
    const bool may_be_gone = served >= kServedBefore;
    if (!guest->send_chain(chain, 0, may_be_gone ? milliseconds(500) : scaled_timeout())) break;
    ++served;
  }
  EXPECT_GE(served, kServedBefore) << "before the truncation";
  served = kServedBefore;
}

TEST_F(HostileFrontendTest, MemoryTruncatedUnderLoadFailsOnlyRequests) { truncate_under_load(); }

/// Loss of registered pages is detected; plain operations replace the registration.
class HostileRegisteredFrontendTest : public HostileFrontendTest {
 protected:
  void SetUp() override { start({"--fixed-buffers", "on"}); }
};

TEST_F(HostileRegisteredFrontendTest, RegisteredMemoryTruncatedUnderLoadFailsOnlyRequests) {
  truncate_under_load();
}

/// The protocol features including the in-flight record.
constexpr std::uint64_t kWithRecord = vhost::kProtocolMq | vhost::kProtocolConfig |
                                      vhost::kProtocolReplyAck | vhost::kProtocolInflightShmfd;

TEST_F(HostileFrontendTest, Rule4AnUnnegotiatedInflightRecordIsRefused) {
  const auto guest = connect();
  EXPECT_FALSE(guest->frontend().get_inflight(1, 64).has_value());
  EXPECT_EQ(guest->read(0, 512).status, 0) << "and not fatal";
}

TEST_F(HostileFrontendTest, Rule40AMalformedInflightRecordIsRefusedAndNotFatal) {
  {
    const auto guest = connect({.protocol = kWithRecord, .queues = 0});
    auto record = guest->frontend().get_inflight(1, 64);
    ASSERT_TRUE(record.has_value()) << record.error().to_string();
    EXPECT_FALSE(guest->frontend().get_inflight(2, 64).has_value()) << "more queues than offered";
    EXPECT_FALSE(guest->frontend().get_inflight(1, 0).has_value());
    EXPECT_FALSE(guest->frontend().get_inflight(0, 64).has_value());
    const auto good = record->where;
    record->where.mmap_size = ~std::uint64_t{0};
    EXPECT_TRUE(is_refused(guest->frontend().set_inflight(*record)));
    record->where = good;
    record->where.mmap_offset = 1;
    EXPECT_TRUE(is_refused(guest->frontend().set_inflight(*record)));
    record->where = good;
    record->where.queue_size = 32768;
    EXPECT_TRUE(is_refused(guest->frontend().set_inflight(*record)));
    record->where = good;
    EXPECT_TRUE(guest->frontend().set_inflight(*record).has_value());
  }
  expect_alive();
}

TEST_F(HostileFrontendTest, Rule40TheInflightRecordOfARunningRingCannotChange) {
  const auto guest = connect({.protocol = kWithRecord});
  const auto record = guest->frontend().get_inflight(1, 64);
  ASSERT_TRUE(record.has_value());
  EXPECT_TRUE(is_refused(guest->frontend().set_inflight(*record)));
  EXPECT_EQ(guest->read(0, 512).status, 0);
}

TEST_F(HostileFrontendTest, Rule40ATruncatedInflightRecordStopsOnlyItsRing) {
  {
    const auto guest = connect({.protocol = kWithRecord});
    ASSERT_TRUE(guest->queue().stop(guest->frontend()));
    const auto record = guest->frontend().get_inflight(1, 64);
    ASSERT_TRUE(record && guest->frontend().set_inflight(*record));
    ASSERT_TRUE(guest->queue().resume(guest->frontend()));
    ASSERT_EQ(guest->read(0, 512).status, 0);
    ASSERT_EQ(::ftruncate(record->file.get(), 0), 0);
    const auto memory = guest->scratch();
    const std::array chain = {
        virtio::DriverSegment{memory.gpa, 16, virtio::Direction::kReadable},
        virtio::DriverSegment{memory.gpa.plus_unchecked(64), 1, virtio::Direction::kWritable}};
    EXPECT_EQ(guest->send_chain(chain, 0, std::chrono::milliseconds(300)), std::nullopt);
  }
  expect_alive();
}

TEST_F(HostileFrontendTest, Rule40ARingLargerThanItsInflightRecordDoesNotStart) {
  {
    const auto guest = connect({.protocol = kWithRecord});
    ASSERT_TRUE(guest->queue().stop(guest->frontend()));
    const auto record = guest->frontend().get_inflight(1, 32);
    ASSERT_TRUE(record && guest->frontend().set_inflight(*record));
    EXPECT_FALSE(guest->queue().resume(guest->frontend()).has_value());
  }
  expect_alive();
}

}  // namespace
}  // namespace guestio::tests
