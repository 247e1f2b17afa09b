// SPDX-License-Identifier: MIT
#include "guestio/uring/registered_buffers.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <future>
#include <string>

#include "guestio/base/mapping.h"
#include "guestio/base/unique_fd.h"
#include "guestio/uring/loop.h"
#include "guestio/uring/operation_test.h"

namespace guestio::uring {
namespace {

constexpr std::size_t kPage = 4096;

/// A shared memory mapping, like guest memory.
class SharedBytes {
 public:
  explicit SharedBytes(std::size_t size, int protection = PROT_READ | PROT_WRITE) : size_(size) {
    EXPECT_EQ(::ftruncate(fd_.get(), static_cast<off_t>(size)), 0);
    start_ = ::mmap(nullptr, size, protection, MAP_SHARED, fd_.get(), 0);
    EXPECT_NE(start_, MAP_FAILED);
  }
  SharedBytes(const SharedBytes&) = delete;
  SharedBytes& operator=(const SharedBytes&) = delete;
  ~SharedBytes() { ::munmap(start_, size_); }

  [[nodiscard]] std::span<std::byte> bytes() const {
    return {static_cast<std::byte*>(start_), size_};
  }
  [[nodiscard]] int fd() const { return fd_.get(); }

 private:
  const UniqueFd fd_{::memfd_create("fixed-memory-test", MFD_CLOEXEC)};
  const std::size_t size_;
  void* start_ = nullptr;
};

std::string text_at(std::span<const std::byte> bytes) {
  return reinterpret_cast<const char*>(bytes.data());
}

void put(std::span<std::byte> to, std::string_view text) {
  std::memcpy(to.data(), text.data(), text.size());
}

class RegisteredBuffersTest : public ::testing::Test {
 protected:
  /// Transfers `count` bytes, or segments, between `data` and the start of `fd`. Returns the
  /// result.
  std::int32_t move(int opcode, int fd, const void* data, std::size_t count, std::uint16_t index) {
    TestOperation operation(prepare(opcode, fd, data, count, index));
    loop_->start(operation);
    loop_->run_until_idle();
    return operation.last_result;
  }
  static TestOperation::Prepare prepare(int opcode, int fd, const void* data, std::size_t count,
                                        std::uint16_t index) {
    return [=](io_uring_sqe& entry) {
      ::io_uring_prep_rw(opcode, &entry, fd, data, static_cast<unsigned>(count), 0);
      entry.buf_index = index;
    };
  }

  std::unique_ptr<Loop> loop_ = Loop::create({.ring = {}, .buffer_slots = 2}).value();
  RegisteredBuffers& table_ = loop_->registered_buffers();
  SharedBytes memory_{4 * kPage};
  SharedBytes file_{4 * kPage};
};

TEST_F(RegisteredBuffersTest, ReadsAndWritesByBufferIndex) {
  const auto registration = table_.add(memory_.bytes());
  ASSERT_TRUE(registration.has_value()) << registration.error().to_string();
  put(file_.bytes(), "from the file");
  const auto target = memory_.bytes().subspan(kPage + 512, 512);
  const auto index = table_.find(target.data(), target.size());
  ASSERT_TRUE(index.has_value());
  EXPECT_EQ(move(IORING_OP_READ_FIXED, file_.fd(), target.data(), 512, *index), 512);
  EXPECT_EQ(text_at(target), "from the file");
  put(target, "to the file  ");
  EXPECT_EQ(move(IORING_OP_WRITE_FIXED, file_.fd(), target.data(), 512, *index), 512);
  EXPECT_EQ(text_at(file_.bytes()), "to the file  ");
}

TEST_F(RegisteredBuffersTest, VectoredOperationsMatchSupportsVectoredFixed) {
  const auto registration = table_.add(memory_.bytes());
  ASSERT_TRUE(registration.has_value());
  put(file_.bytes(), "first");
  put(file_.bytes().subspan(512), "second");
  const std::array segments = {iovec{memory_.bytes().subspan(kPage).data(), 512},
                               iovec{memory_.bytes().data(), 512}};
  const std::uint16_t index = *table_.find(memory_.bytes().data(), kPage);
  const std::int32_t result =
      move(kOpReadvFixed, file_.fd(), segments.data(), segments.size(), index);
  EXPECT_EQ(result, table_.supports_vectored_fixed() ? 1024 : -EINVAL);
  EXPECT_EQ(text_at(memory_.bytes()), table_.supports_vectored_fixed() ? "second" : "");
}

TEST_F(RegisteredBuffersTest, FindsRangesWithinOneBufferOnly) {
  const auto all = memory_.bytes();
  EXPECT_EQ(table_.find(all.data(), 1), std::nullopt);
  const auto low = table_.add(all.subspan(kPage, kPage));
  const auto high = table_.add(all.subspan(2 * kPage, kPage));
  ASSERT_TRUE(low && high);
  const auto in_low = table_.find(&all[kPage], kPage);
  const auto in_high = table_.find(&all[2 * kPage], kPage);
  ASSERT_TRUE(in_low && in_high);
  EXPECT_NE(in_low, in_high);
  EXPECT_EQ(table_.find(&all[2 * kPage - 1], 1), in_low);
  EXPECT_EQ(table_.find(&all[2 * kPage - 1], 2), std::nullopt) << "in two buffers";
  EXPECT_EQ(table_.find(&all[kPage - 1], 2), std::nullopt) << "begins before";
  EXPECT_EQ(table_.find(&all[3 * kPage - 1], 2), std::nullopt) << "ends behind";
  EXPECT_EQ(table_.find(&all[kPage], SIZE_MAX), std::nullopt) << "beyond the address space";
}

TEST_F(RegisteredBuffersTest, AnAddressOutsideTheBufferFailsWithEFAULT) {
  const auto registration = table_.add(memory_.bytes().first(kPage));
  ASSERT_TRUE(registration.has_value());
  const std::uint16_t index = *table_.find(memory_.bytes().data(), kPage);
  EXPECT_EQ(move(IORING_OP_READ_FIXED, file_.fd(), &memory_.bytes()[kPage], 512, index), -EFAULT);
}

TEST_F(RegisteredBuffersTest, MemoryAddedTwiceIsRegisteredOnceUntilTheLastRelease) {
  auto first = table_.add(memory_.bytes());
  auto second = table_.add(memory_.bytes());
  ASSERT_TRUE(first && second);
  EXPECT_EQ(table_.buffers(), 1U);
  *first = {};
  EXPECT_TRUE(table_.find(memory_.bytes().data(), kPage).has_value());
  *second = {};
  EXPECT_EQ(table_.find(memory_.bytes().data(), kPage), std::nullopt);
}

TEST_F(RegisteredBuffersTest, AnOperationInFlightSurvivesTheEndOfItsRegistration) {
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe2(pipe.data(), O_CLOEXEC), 0);
  const UniqueFd reads(pipe[0]);
  const UniqueFd writes(pipe[1]);
  auto registration = table_.add(memory_.bytes());
  ASSERT_TRUE(registration.has_value());
  TestOperation operation(prepare(IORING_OP_READ_FIXED, reads.get(), memory_.bytes().data(), 64,
                                  *table_.find(memory_.bytes().data(), 64)));
  loop_->start(operation);
  loop_->submit();
  *registration = {};
  ASSERT_TRUE(operation.in_flight());
  ASSERT_EQ(::write(writes.get(), "late", 4), 4);
  loop_->run_until_idle();
  EXPECT_EQ(operation.last_result, 4);
  EXPECT_EQ(text_at(memory_.bytes()), "late");
}

TEST_F(RegisteredBuffersTest, AFullTableRejectsUntilSlotsAreFree) {
  auto first = table_.add(memory_.bytes().first(kPage));
  const auto second = table_.add(memory_.bytes().subspan(kPage, kPage));
  ASSERT_TRUE(first && second);
  const auto third = table_.add(memory_.bytes().subspan(2 * kPage, kPage));
  ASSERT_FALSE(third.has_value());
  EXPECT_EQ(third.error(), Error::make(ErrorKind::kTooLarge, "", 1, 0));
  EXPECT_EQ(table_.statistics().refusals, 1U);
  EXPECT_EQ(table_.statistics().buffers, 2U);
  EXPECT_EQ(table_.statistics().registered_bytes, 2 * kPage);
  *first = {};
  EXPECT_TRUE(table_.add(memory_.bytes().subspan(2 * kPage, kPage)).has_value());
}

TEST_F(RegisteredBuffersTest, ReadOnlyMemoryIsRejected) {
  const SharedBytes read_only(kPage, PROT_READ);
  const auto refused = table_.add(read_only.bytes());
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().kind, ErrorKind::kUnsupported) << refused.error().to_string();
  const SharedBytes hole(kPage, PROT_NONE);
  EXPECT_FALSE(table_.add(hole.bytes()).has_value());
  EXPECT_FALSE(table_.add({}).has_value());
  EXPECT_EQ(table_.buffers(), 0U);
}

/// A guard with a settable result.
class Guard final : public BufferGuard {
 public:
  [[nodiscard]] bool is_resident(const std::byte* data, std::size_t size) const noexcept override {
    return lost == nullptr || lost < data || lost >= data + size;
  }
  void prefetch(const std::byte* data, std::size_t size) const noexcept override {
    fetched = {data, size};
  }
  void on_unregistered() noexcept override { ++losses; }

  const std::byte* lost = nullptr;
  int losses = 0;
  mutable std::span<const std::byte> fetched;
};

TEST_F(RegisteredBuffersTest, FindUnregistersMemoryWithAMissingPage) {
  Guard guard;
  auto registration = table_.add(memory_.bytes(), &guard);
  ASSERT_TRUE(registration.has_value());
  guard.lost = &memory_.bytes()[2 * kPage];
  EXPECT_TRUE(table_.find(memory_.bytes().data(), 2 * kPage).has_value());
  EXPECT_EQ(guard.losses, 0);
  EXPECT_EQ(table_.find(&memory_.bytes()[kPage], kPage + 1), std::nullopt);
  EXPECT_EQ(guard.losses, 1);
  EXPECT_EQ(table_.find(memory_.bytes().data(), kPage), std::nullopt) << "the whole area";
  EXPECT_EQ(table_.statistics().registered_bytes, 0U);
  *registration = {};
  guard.lost = nullptr;
  EXPECT_TRUE(table_.add(memory_.bytes(), &guard).has_value()) << "anew";
}

TEST_F(RegisteredBuffersTest, PrefetchAsksTheGuardOfItsBufferOnly) {
  Guard guard;
  const auto ours = memory_.bytes().subspan(kPage, 100);
  table_.prefetch(ours.data(), ours.size());
  EXPECT_TRUE(guard.fetched.empty()) << "no buffer registered";
  const auto registration = table_.add(memory_.bytes(), &guard);
  ASSERT_TRUE(registration.has_value());
  table_.prefetch(file_.bytes().data(), 100);
  table_.prefetch(&memory_.bytes().back(), 2);
  EXPECT_TRUE(guard.fetched.empty());
  table_.prefetch(ours.data(), ours.size());
  EXPECT_EQ(guard.fetched.data(), ours.data());
  EXPECT_EQ(guard.fetched.size(), ours.size());
}

TEST_F(RegisteredBuffersTest, PinnedMemoryIsClonedToAnyRing) {
  auto pinned = PinnedBuffers::pin(memory_.bytes(), {});
  ASSERT_TRUE(pinned.has_value()) << pinned.error().to_string();
  const auto plain = table_.add(file_.bytes());
  ASSERT_TRUE(plain.has_value());
  const auto registration = table_.add(*pinned, nullptr);
  ASSERT_TRUE(registration.has_value()) << registration.error().to_string();
  // The clones of another ring are independent.
  pinned = fail(ErrorKind::kClosed, "gone");
  put(file_.bytes(), "from the file");
  const auto target = memory_.bytes().subspan(3 * kPage, 512);
  const auto index = table_.find(target.data(), target.size());
  ASSERT_TRUE(index.has_value());
  EXPECT_EQ(move(IORING_OP_READ_FIXED, file_.fd(), target.data(), 512, *index), 512);
  EXPECT_EQ(text_at(target), "from the file");
  const auto other = table_.find(file_.bytes().data(), 512);
  ASSERT_TRUE(other.has_value());
  EXPECT_EQ(move(IORING_OP_WRITE_FIXED, memory_.fd(), file_.bytes().data(), 512, *other), 512);
  EXPECT_EQ(text_at(memory_.bytes()), "from the file");
}

TEST_F(RegisteredBuffersTest, PinningStopsOnRequest) {
  std::stop_source stop;
  stop.request_stop();
  const auto pinned = PinnedBuffers::pin(memory_.bytes(), stop.get_token());
  ASSERT_FALSE(pinned.has_value());
  EXPECT_EQ(pinned.error().kind, ErrorKind::kCancelled);
}

/// A userfaultfd holds up one page, and with it the pinning in the middle of a buffer.
TEST_F(RegisteredBuffersTest, PinningStopsWithinABuffer) {
  constexpr std::size_t kStepBytes = std::size_t{16} << 20;
  const auto memory = Mapping::anonymous(3 * kStepBytes).value();
  // A huge page might extend into the next step.
  ASSERT_EQ(::madvise(memory.data(), memory.size(), MADV_NOHUGEPAGE), 0);
  const UniqueFd faults(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  if (!faults) GTEST_SKIP() << "no userfaultfd for this user";
  uffdio_api api{.api = UFFD_API, .features = 0, .ioctls = 0};
  ASSERT_EQ(::ioctl(faults.get(), UFFDIO_API, &api), 0);
  const uffdio_range page{reinterpret_cast<std::uintptr_t>(memory.data() + kStepBytes), kPage};
  uffdio_register held{.range = page, .mode = UFFDIO_REGISTER_MODE_MISSING, .ioctls = 0};
  ASSERT_EQ(::ioctl(faults.get(), UFFDIO_REGISTER, &held), 0);
  std::stop_source stop;
  auto pinning = std::async(std::launch::async, [&memory, token = stop.get_token()] {
    return PinnedBuffers::pin(memory.bytes(), token);
  });
  pollfd waits{faults.get(), POLLIN, 0};
  ASSERT_EQ(::poll(&waits, 1, 60'000), 1);
  stop.request_stop();
  uffdio_zeropage answer{.range = page, .mode = 0, .zeropage = 0};
  ASSERT_EQ(::ioctl(faults.get(), UFFDIO_ZEROPAGE, &answer), 0);
  const auto pinned = pinning.get();
  ASSERT_FALSE(pinned.has_value());
  EXPECT_EQ(pinned.error().kind, ErrorKind::kCancelled);
  unsigned char is_there = 0;
  ASSERT_EQ(::mincore(memory.data(), kPage, &is_there), 0);
  EXPECT_EQ(is_there & 1, 1) << "of the first step";
  ASSERT_EQ(::mincore(memory.data() + 2 * kStepBytes, kPage, &is_there), 0);
  EXPECT_EQ(is_there & 1, 0) << "of the last one";
}

TEST_F(RegisteredBuffersTest, TenantsHaveAFairQuotaOfSlots) {
  Ring ring = Ring::create({.sq_entries = 4}).value();
  RegisteredBuffers table(ring, 16, kPage);
  EXPECT_EQ(table.slot_quota(), 12U) << "the rest is for ownerless memory";
  table.add_tenant();
  EXPECT_EQ(table.slot_quota(), 12U);
  table.add_tenant();
  table.add_tenant();
  EXPECT_EQ(table.slot_quota(), 4U);
  for (int i = 0; i < 40; ++i) table.add_tenant();
  EXPECT_EQ(table.slot_quota(), 1U);
  for (int i = 0; i < 41; ++i) table.remove_tenant();
  EXPECT_EQ(table.slot_quota(), 6U);
  const SharedBytes memory(3 * kPage + 1);
  EXPECT_EQ(table.slots_needed(memory.bytes()), 4U);
  const auto counted = table.add(memory.bytes(), nullptr, this);
  const auto of_nobody = table.add(memory_.bytes());
  ASSERT_TRUE(counted.has_value() && of_nobody.has_value());
  EXPECT_EQ(table.slots_used_by(this), 4U);
  EXPECT_EQ(table.slots_used_by(&table), 0U);
}

TEST(RegisteredBuffersSizeTest, MemoryBeyondTheMaximumBecomesSeveralBuffersOrNone) {
  Ring ring = Ring::create({.sq_entries = 4}).value();
  RegisteredBuffers table(ring, 3, 2 * kPage);
  const SharedBytes memory(5 * kPage);
  const auto all = memory.bytes();
  {
    const auto registration = table.add(all);
    ASSERT_TRUE(registration.has_value());
    EXPECT_EQ(table.buffers(), 3U);
    EXPECT_EQ(table.find(&all[kPage], 2 * kPage), std::nullopt) << "across two buffers";
    EXPECT_TRUE(table.find(&all[4 * kPage], kPage).has_value());
  }
  ASSERT_EQ(::mprotect(&all[4 * kPage], kPage, PROT_NONE), 0);
  EXPECT_FALSE(table.add(all).has_value()) << "the last buffer cannot be pinned";
  EXPECT_EQ(table.buffers(), 0U);
  ASSERT_EQ(::mprotect(&all[4 * kPage], kPage, PROT_READ | PROT_WRITE), 0);
  EXPECT_TRUE(table.add(all).has_value()) << "all slots are free again";
}

void drop_lock_capability() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> sets{};
  if (::syscall(SYS_capget, &header, sets.data()) != 0) std::_Exit(2);
  sets[0].effective &= ~(1U << CAP_IPC_LOCK);
  if (::syscall(SYS_capset, &header, sets.data()) != 0) std::_Exit(3);
}

/// In a separate process: limit and capability are process-wide.
[[noreturn]] void register_over_the_limit() {
  drop_lock_capability();
  const SharedBytes memory(4 * kPage);
  const auto loop = Loop::create().value();
  // After the ring: kernels may charge the ring itself as well.
  const rlimit none{0, 0};
  if (::setrlimit(RLIMIT_MEMLOCK, &none) != 0) std::_Exit(4);
  if (is_memlock_unlimited()) std::_Exit(9);
  const auto refused = loop->registered_buffers().add(memory.bytes());
  if (refused) std::_Exit(5);
  if (refused.error().host_errno != ENOMEM) std::_Exit(6);
  if (loop->registered_buffers().statistics().last_errno != ENOMEM) std::_Exit(8);
  if (loop->registered_buffers().find(memory.bytes().data(), 1)) std::_Exit(7);
  std::_Exit(0);
}

TEST(RegisteredBuffersLimitDeathTest, RegistrationBeyondTheMemlockLimitFailsWithENOMEM) {
  EXPECT_EXIT(register_over_the_limit(), ::testing::ExitedWithCode(0), "");
}

[[noreturn]] void lift_the_limit() {
  drop_lock_capability();
  if (is_memlock_unlimited()) std::_Exit(2);
  const rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY};
  if (::setrlimit(RLIMIT_MEMLOCK, &unlimited) != 0) std::_Exit(errno == EPERM ? 0 : 3);
  std::_Exit(is_memlock_unlimited() ? 0 : 4);
}

TEST(RegisteredBuffersLimitTest, MemlockIsUnlimitedWithoutALimit) {
  EXPECT_EXIT(lift_the_limit(), ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace guestio::uring
