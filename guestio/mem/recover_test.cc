// SPDX-License-Identifier: MIT
#include "guestio/mem/recover.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "guestio/base/mapping.h"
#include "guestio/base/unique_fd.h"

namespace guestio::mem {
namespace {

constexpr std::size_t kReadable = 4 * kPageSize;

/// Four pages of memory followed by a faulting page. The kind selects the signal.
class RecoverTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(install_fault_recovery());
    file_ = UniqueFd(::memfd_create("recover-test", MFD_CLOEXEC));
    ASSERT_EQ(::ftruncate(file_.get(), kReadable + kPageSize), 0);
    auto mapping = Mapping::shared_file(file_.get(), FileOffset(0), kReadable + kPageSize,
                                        Mapping::Access::kReadWrite);
    ASSERT_TRUE(mapping);
    memory_ = std::move(*mapping);
    for (std::size_t i = 0; i < kReadable; ++i) memory_.data()[i] = pattern(i);
    if (GetParam() == SIGBUS) {
      ASSERT_EQ(::ftruncate(file_.get(), kReadable), 0);
    } else {
      ASSERT_EQ(::mprotect(memory_.data() + kReadable, kPageSize, PROT_NONE), 0);
    }
  }

  static std::byte pattern(std::size_t i) { return static_cast<std::byte>(i * 7 + i / 251 + 1); }
  /// The first faulting byte.
  std::byte* edge() const { return memory_.data() + kReadable; }

  UniqueFd file_;
  Mapping memory_;
};

INSTANTIATE_TEST_SUITE_P(Signals, RecoverTest, testing::Values(SIGSEGV, SIGBUS),
                         [](const auto& signal) {
                           return signal.param == SIGBUS ? "Truncated" : "Protected";
                         });

/// Lengths on both sides of every change of method.
std::vector<std::size_t> interesting_lengths() {
  std::vector<std::size_t> lengths;
  for (std::size_t i = 0; i <= 300; ++i) lengths.push_back(i);
  for (std::size_t i : {511u, 512u, 1000u, 4095u, 4096u, 4097u, 5000u}) lengths.push_back(i);
  return lengths;
}

TEST_P(RecoverTest, CopiesEveryLengthAtEveryAlignment) {
  std::vector<std::byte> buffer(kReadable);
  for (const std::size_t length : interesting_lengths()) {
    for (std::size_t shift = 0; shift < 37; shift += 1 + length / 256) {
      std::ranges::fill(buffer, std::byte{0xee});
      ASSERT_EQ(try_copy(buffer.data() + 64 + shift % 7, memory_.data() + shift, length), length);
      ASSERT_EQ(std::memcmp(buffer.data() + 64 + shift % 7, memory_.data() + shift, length), 0);
      ASSERT_EQ(buffer[63 + shift % 7], std::byte{0xee});
      ASSERT_EQ(buffer[64 + shift % 7 + length], std::byte{0xee});
    }
  }
}

TEST_P(RecoverTest, AFaultAtTheSourceGivesTheExactCount) {
  std::vector<std::byte> buffer(kReadable);
  for (const std::size_t length : interesting_lengths()) {
    for (std::size_t readable = 0; readable < length; readable += 1 + length / 32) {
      std::ranges::fill(buffer, std::byte{0xee});
      const auto outcome = try_copy_outcome(buffer.data() + 3, edge() - readable, length);
      ASSERT_EQ(outcome.done, readable) << "of " << length;
      ASSERT_EQ(outcome.fault, FaultSide::kSource);
      ASSERT_EQ(std::memcmp(buffer.data() + 3, edge() - readable, readable), 0);
      ASSERT_EQ(buffer[3 + readable], std::byte{0xee}) << "nothing after it is written";
    }
  }
}

TEST_P(RecoverTest, AFaultAtTheDestinationGivesTheExactCount) {
  std::vector<std::byte> buffer(kReadable, std::byte{0x5a});
  for (const std::size_t length : interesting_lengths()) {
    for (std::size_t writable = 0; writable < length; writable += 1 + length / 32) {
      std::memset(edge() - writable, 0, writable);
      const auto outcome = try_copy_outcome(edge() - writable, buffer.data() + 5, length);
      ASSERT_EQ(outcome.done, writable) << "of " << length;
      ASSERT_EQ(outcome.fault, FaultSide::kDestination);
      ASSERT_EQ(std::memcmp(edge() - writable, buffer.data() + 5, writable), 0);
    }
  }
}

#if defined(__x86_64__)

TEST_P(RecoverTest, WithoutAvxLongCopiesAreTheSame) {
  std::vector<std::byte> buffer(kReadable);
  for (std::size_t length = 129; length <= 300; length += 13) {
    for (std::size_t shift = 0; shift < 37; ++shift) {
      std::ranges::fill(buffer, std::byte{0xee});
      std::byte* const to = buffer.data() + 64 + shift % 19;
      ASSERT_EQ(internal::copy_long_sse2(to, edge() - length - shift, length), length);
      ASSERT_EQ(std::memcmp(to, edge() - length - shift, length), 0);
      ASSERT_TRUE(to[-1] == std::byte{0xee} && to[length] == std::byte{0xee});
    }
    for (std::size_t good = 0; good < length; good += 7) {
      std::ranges::fill(buffer, std::byte{0xee});
      const std::size_t read = internal::copy_long_sse2(buffer.data() + 3, edge() - good, length);
      ASSERT_LE(read, good);
      ASSERT_EQ(std::memcmp(buffer.data() + 3, edge() - good, read), 0);
      ASSERT_EQ(buffer[3 + good], std::byte{0xee}) << "nothing after it is written";
      std::memset(edge() - good, 0, good);
      const std::size_t written = internal::copy_long_sse2(edge() - good, buffer.data(), length);
      ASSERT_LE(written, good);
      ASSERT_EQ(std::memcmp(edge() - good, buffer.data(), written), 0);
    }
  }
}

#endif

TEST_P(RecoverTest, FillsEveryLengthAndCountsExactlyOnAFault) {
  std::vector<std::byte> expected(kReadable, std::byte{0xa7});
  for (const std::size_t length : interesting_lengths()) {
    std::memset(memory_.data(), 0, kReadable);
    ASSERT_EQ(try_fill(memory_.data() + 33, std::byte{0xa7}, length), length);
    ASSERT_EQ(std::memcmp(memory_.data() + 33, expected.data(), length), 0);
    ASSERT_EQ(memory_.data()[32], std::byte{0});
    ASSERT_EQ(memory_.data()[33 + length], std::byte{0});
    for (std::size_t writable = 0; writable < length; writable += 1 + length / 16) {
      ASSERT_EQ(try_fill(edge() - writable, std::byte{0xa7}, length), writable);
      ASSERT_EQ(std::memcmp(edge() - writable, expected.data(), writable), 0);
    }
  }
}

TEST_P(RecoverTest, ComparesUpToTheFirstDifference) {
  std::vector<std::byte> copy(memory_.data(), memory_.data() + kReadable);
  for (const std::size_t length : {1u, 15u, 16u, 17u, 100u, 4096u}) {
    const auto same = try_compare(copy.data(), memory_.data(), length);
    EXPECT_EQ(same.equal, length);
    EXPECT_FALSE(same.faulted);
    copy[length - 1] ^= std::byte{1};
    EXPECT_EQ(try_compare(copy.data(), memory_.data(), length).equal, length - 1);
    copy[length - 1] ^= std::byte{1};
  }
  const auto outcome = try_compare(copy.data() + kReadable - 20, edge() - 20, 40);
  EXPECT_EQ(outcome.equal, 20u);
  EXPECT_TRUE(outcome.faulted);
}

template <typename T>
void check_typed_operations(std::byte* good, std::byte* bad) {
  auto* const word = reinterpret_cast<T*>(good);
  auto* const missing = reinterpret_cast<T*>(bad);
  const T value = static_cast<T>(0x8877'6655'4433'2211u);
  T seen = 0;
  EXPECT_TRUE(try_store(word, value));
  EXPECT_TRUE(try_load(word, seen));
  EXPECT_EQ(seen, value);
  EXPECT_TRUE(try_store_release(word, static_cast<T>(value + 1)));
  EXPECT_TRUE(try_load_acquire(word, seen));
  EXPECT_EQ(seen, static_cast<T>(value + 1));

  T expected = 5;
  EXPECT_EQ(try_compare_exchange(word, expected, T{9}), Exchange::kDifferent);
  EXPECT_EQ(expected, static_cast<T>(value + 1));
  EXPECT_EQ(try_compare_exchange(word, expected, T{9}), Exchange::kExchanged);
  EXPECT_TRUE(try_load(word, seen));
  EXPECT_EQ(seen, T{9});

  seen = 77;
  EXPECT_FALSE(try_load(missing, seen));
  EXPECT_FALSE(try_load_acquire(missing, seen));
  EXPECT_FALSE(try_store(missing, value));
  EXPECT_FALSE(try_store_release(missing, value));
  expected = 5;
  EXPECT_EQ(try_compare_exchange(missing, expected, T{9}), Exchange::kFaulted);
  EXPECT_EQ(seen, T{77}) << "a failing load leaves its target alone";
  EXPECT_EQ(expected, T{5});
}

TEST_P(RecoverTest, TypedOperationsWorkAndRecover) {
  check_typed_operations<std::uint8_t>(memory_.data(), edge());
  check_typed_operations<std::uint16_t>(memory_.data() + 8, edge());
  check_typed_operations<std::uint32_t>(memory_.data() + 16, edge() + 4);
  check_typed_operations<std::uint64_t>(memory_.data() + 24, edge() + 8);
  check_typed_operations<std::int32_t>(memory_.data() + 32, edge() + 8);
}

TEST_P(RecoverTest, TypedOperationsTakeSmallStructures) {
  struct Pair {
    std::uint16_t a;
    std::uint16_t b;
  };
  auto* const shared = reinterpret_cast<Pair*>(memory_.data());
  EXPECT_TRUE(try_store(shared, {1, 2}));
  Pair seen{};
  EXPECT_TRUE(try_load(shared, seen));
  EXPECT_EQ(seen.b, 2);
}

TEST_P(RecoverTest, SetsBitsAndProbes) {
  memory_.data()[0] = std::byte{0x11};
  EXPECT_TRUE(try_set_bits(memory_.data(), std::byte{0x82}));
  EXPECT_EQ(memory_.data()[0], std::byte{0x93});
  EXPECT_TRUE(probe_read(memory_.data()));
  EXPECT_TRUE(probe_write(memory_.data()));
  EXPECT_EQ(memory_.data()[0], std::byte{0x93}) << "a probe changes nothing";
  EXPECT_FALSE(try_set_bits(edge(), std::byte{1}));
  EXPECT_FALSE(probe_read(edge()));
  EXPECT_FALSE(probe_write(edge()));
}

TEST_P(RecoverTest, AProbeForWritingDetectsReadOnlyMemory) {
  ASSERT_EQ(::mprotect(memory_.data(), kPageSize, PROT_READ), 0);
  EXPECT_TRUE(probe_read(memory_.data()));
  EXPECT_FALSE(probe_write(memory_.data()));
}

TEST_P(RecoverTest, EveryAddressIsSafe) {
  std::uint64_t seen = 0;
  std::byte buffer[256] = {};
  for (const std::uint64_t address :
       {std::uint64_t{0}, std::uint64_t{8}, std::uint64_t{1} << 60, ~std::uint64_t{0} - 4095}) {
    // NOLINTNEXTLINE(performance-no-int-to-ptr): no address of anything
    auto* const wild = reinterpret_cast<std::uint64_t*>(address);
    EXPECT_FALSE(try_load(wild, seen)) << address;
    EXPECT_FALSE(try_store(wild, 1)) << address;
    EXPECT_EQ(try_copy(buffer, reinterpret_cast<std::byte*>(wild), sizeof(buffer)), 0u);
    EXPECT_EQ(try_copy(reinterpret_cast<std::byte*>(wild), buffer, sizeof(buffer)), 0u);
  }
}

TEST_P(RecoverTest, AnEmptyOperationAccessesNothing) {
  EXPECT_EQ(try_copy(nullptr, nullptr, 0), 0u);
  EXPECT_EQ(try_fill(nullptr, std::byte{1}, 0), 0u);
  EXPECT_FALSE(try_compare(nullptr, nullptr, 0).faulted);
}

}  // namespace
}  // namespace guestio::mem
