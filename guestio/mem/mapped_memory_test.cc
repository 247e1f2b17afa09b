// SPDX-License-Identifier: MIT
#include "guestio/mem/mapped_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <fstream>
#include <thread>
#include <vector>

#include "guestio/base/unique_fd.h"
#include "guestio/mem/test/places.h"

namespace guestio::mem {
namespace {

using test::make_memfd;
using test::region;

constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::uint64_t kGiB = 1 << 30;
/// Forces separate mappings.
constexpr MapOptions kNoReservation{ByteCount(0)};

Error error_of(std::vector<FileRegion> regions) {
  const auto memory = map_file_regions(regions);
  EXPECT_FALSE(memory.has_value());
  return memory ? Error{} : memory.error();
}

/// Host address minus guest address.
std::uintptr_t distance(const RegionInfo& region) {
  return reinterpret_cast<std::uintptr_t>(region.host) - region.start.raw();
}

class MappedMemoryTest : public testing::TestWithParam<MapOptions> {};

INSTANTIATE_TEST_SUITE_P(Layouts, MappedMemoryTest, testing::Values(MapOptions{}, kNoReservation),
                         [](const auto& options) {
                           return options.param.reservation_limit.raw() == 0 ? "Apart" : "Reserved";
                         });

TEST_P(MappedMemoryTest, ShowsTheFilesAtTheirGuestAddresses) {
  const UniqueFd fd = make_memfd(4 * kMiB);
  // QEMU's layout of a guest with memory above 4 GiB, in reverse order.
  const std::array regions{region(4 * kGiB, kMiB, fd, 2 * kMiB), region(0, 2 * kMiB, fd)};
  const auto memory = map_file_regions(regions, GetParam());
  ASSERT_TRUE(memory) << memory.error().to_string();
  ASSERT_TRUE(memory->store<std::uint32_t>(Gpa(4 * kGiB + 8), 77));
  ASSERT_TRUE(memory->store<std::uint32_t>(Gpa(16), 88));
  std::uint32_t seen = 0;
  ASSERT_EQ(::pread(fd.get(), &seen, sizeof(seen), 2 * kMiB + 8), 4);
  EXPECT_EQ(seen, 77u);
  ASSERT_EQ(::pread(fd.get(), &seen, sizeof(seen), 16), 4);
  EXPECT_EQ(seen, 88u);
  EXPECT_FALSE(memory->load<std::uint8_t>(Gpa(2 * kMiB)));
  EXPECT_EQ(memory->end(), Gpa(4 * kGiB + kMiB));
}

TEST_P(MappedMemoryTest, AReadOnlyRegionRejectsWrites) {
  const UniqueFd fd = make_memfd(kMiB);
  FileRegion only_read = region(0, kMiB, fd);
  only_read.access = Mapping::Access::kRead;
  const auto memory = map_file_regions({&only_read, 1}, GetParam());
  ASSERT_TRUE(memory);
  EXPECT_TRUE(memory->load<std::uint64_t>(Gpa(0)));
  EXPECT_EQ(memory->store<std::uint64_t>(Gpa(8), 1).error(),
            Error::make(ErrorKind::kReadOnly, "", 8));
  EXPECT_EQ(memory->fill(Gpa(8), std::byte{}, 1).error().kind, ErrorKind::kReadOnly);
  SegmentArray<1> segments;
  const auto range = AddressRange::from_checked(Gpa(0), 8);
  EXPECT_TRUE(memory->lock(range, Access::kRead, segments));
  EXPECT_EQ(memory->lock(range, Access::kWrite, segments).error().kind, ErrorKind::kReadOnly);
}

TEST_P(MappedMemoryTest, OutlivesTheDescriptorsAndSharesDuplicates) {
  UniqueFd fd = make_memfd(kMiB);
  const std::array regions{region(0x100000, 0x80000, fd, 0x40000)};
  auto memory = map_file_regions(regions, GetParam());
  ASSERT_TRUE(memory);
  fd.reset();
  ASSERT_TRUE(memory->store<std::uint32_t>(Gpa(0x100004), 5));
  const auto view = memory->subrange(AddressRange::from_checked(Gpa(0x101000), 0x1000));
  const auto shared = view->shareable_regions();
  ASSERT_EQ(shared.size(), 1u);
  EXPECT_EQ(shared[0].start, Gpa(0));
  EXPECT_EQ(shared[0].length, 0x1000u);
  EXPECT_EQ(shared[0].file_offset, FileOffset(0x41000));
  std::uint32_t seen = 0;
  ASSERT_EQ(::pread(shared[0].fd, &seen, sizeof(seen), 0x40004), 4);
  EXPECT_EQ(seen, 5u);
}

TEST_P(MappedMemoryTest, ATruncatedFileFailsAccessesOnly) {
  const UniqueFd fd = make_memfd(kMiB);
  const std::array regions{region(0, kMiB, fd)};
  const auto memory = map_file_regions(regions, GetParam());
  ASSERT_TRUE(memory);
  ASSERT_EQ(::ftruncate(fd.get(), 0x1000), 0);
  std::vector<std::byte> buffer(0x3000);
  EXPECT_EQ(memory->read(Gpa(0x800), buffer).error(),
            Error::make(ErrorKind::kMemoryFault, "", 0x1000));
  EXPECT_TRUE(memory->read(Gpa(0x800), std::span(buffer).first(0x800)));
}

/// Copies while the file is repeatedly truncated and grown. Every call must return.
TEST_P(MappedMemoryTest, SurvivesTruncationDuringCopies) {
  constexpr std::uint64_t kSize = 0x4000;
  constexpr int kEnough = 20;
  const UniqueFd fd = make_memfd(kSize);
  const std::array regions{region(0, kSize, fd)};
  const auto memory = map_file_regions(regions, GetParam());
  ASSERT_TRUE(memory);
  std::atomic<bool> done = false;
  std::thread front_end([&] {
    while (!done) {
      EXPECT_EQ(::ftruncate(fd.get(), 0x1000), 0);
      std::this_thread::yield();
      EXPECT_EQ(::ftruncate(fd.get(), kSize), 0);
      std::this_thread::yield();
    }
  });
  std::vector<std::byte> buffer(0x1800);
  int faults = 0;
  int successes = 0;
  for (unsigned i = 0; (faults < kEnough || successes < kEnough) && i < 1'000'000; ++i) {
    const Gpa at(0xe00 + i % 7 * 0x123);
    const auto result = i % 2 == 0 ? memory->read(at, buffer) : memory->write(at, buffer);
    EXPECT_TRUE(result || result.error().kind == ErrorKind::kMemoryFault);
    ++(result ? successes : faults);
  }
  done = true;
  front_end.join();
  EXPECT_GE(faults, kEnough);
  EXPECT_GE(successes, kEnough);
}

TEST(MappedMemory, OneReservationKeepsTheGuestsLayout) {
  const UniqueFd fd = make_memfd(4 * kMiB);
  const std::array regions{region(kGiB, kMiB, fd), region(4 * kGiB, kMiB, fd, kMiB)};
  const auto memory = map_file_regions(regions);
  ASSERT_TRUE(memory);
  const auto placed = memory->regions();
  ASSERT_EQ(placed.size(), 2u);
  EXPECT_EQ(distance(placed[0]), distance(placed[1]));
  EXPECT_EQ(distance(placed[0]) % kGiB, 0u);
  EXPECT_FALSE(probe_read(placed[0].host + kMiB)) << "a hole is PROT_NONE";
}

TEST(MappedMemory, DistantRegionsAreMappedSeparately) {
  const UniqueFd fd = make_memfd(4 * kMiB);
  const std::uint64_t far = std::uint64_t{1} << 60;
  const std::array regions{region(0, kMiB, fd), region(far, kMiB, fd, kMiB),
                           region(~std::uint64_t{0} - kMiB + 1, kMiB, fd, 2 * kMiB)};
  const auto memory = map_file_regions(regions);
  ASSERT_TRUE(memory);
  EXPECT_TRUE(memory->store<std::uint8_t>(Gpa(far), 1));
  EXPECT_TRUE(memory->store<std::uint8_t>(Gpa(~std::uint64_t{0}), 1));
}

TEST(MappedMemory, Rule44RegionsHaveAnySizeAndOffset) {
  constexpr std::size_t kSize = 7568;
  constexpr std::uint64_t kOffset = 1234;
  const UniqueFd fd = make_memfd(kOffset + kSize);
  const std::array regions{region(0x10'0001, kSize, fd, kOffset)};
  const auto memory = map_file_regions(regions);
  ASSERT_TRUE(memory) << memory.error().to_string();
  EXPECT_TRUE(memory->store<std::uint8_t>(Gpa(0x10'0001), 1));
  EXPECT_TRUE(memory->store<std::uint8_t>(Gpa(0x10'0000 + kSize), 2));
  EXPECT_FALSE(memory->load<std::uint8_t>(Gpa(0x10'0000))) << "of the same page";
  EXPECT_FALSE(memory->load<std::uint8_t>(Gpa(0x10'0001 + kSize))) << "of the same page";
  EXPECT_FALSE(memory->host_range(Gpa(0x10'0001), kSize + 1));
  std::array<std::uint8_t, 2> seen{};
  EXPECT_EQ(::pread(fd.get(), &seen[0], 1, kOffset), 1);
  EXPECT_EQ(::pread(fd.get(), &seen[1], 1, kOffset + kSize - 1), 1);
  EXPECT_EQ(seen, (std::array<std::uint8_t, 2>{1, 2}));
}

TEST(MappedMemory, Rule44RegionsSharingAPageOfTheirFileAccessOnlyTheirBytes) {
  const UniqueFd fd = make_memfd(kMiB);
  const auto first = map_file_regions(std::array{region(0, 7568, fd)});
  ASSERT_TRUE(first) << first.error().to_string();
  const auto both = add_file_region(*first, region(7568, 100, fd, 7568));
  ASSERT_TRUE(both) << both.error().to_string();
  EXPECT_TRUE(both->store<std::uint8_t>(Gpa(7568), 9));
  EXPECT_FALSE(first->load<std::uint8_t>(Gpa(7568)));
  const auto second = remove_region(*both, Gpa(0), ByteCount(7568));
  ASSERT_TRUE(second);
  EXPECT_EQ(second->load<std::uint8_t>(Gpa(7568)), 9);
  EXPECT_FALSE(second->load<std::uint8_t>(Gpa(7567)));
}

TEST(MappedMemory, ARemovedRegionLeavesAHoleInTheReservation) {
  const UniqueFd fd = make_memfd(4 * kMiB);
  const std::array regions{region(0, kMiB, fd), region(2 * kMiB, kMiB, fd, kMiB)};
  GuestMemory memory = *map_file_regions(regions);
  const GuestMemory smaller = *remove_region(memory, Gpa(2 * kMiB), ByteCount(kMiB));
  std::byte* const stale = *memory.host_range(Gpa(2 * kMiB), 8);
  EXPECT_TRUE(probe_read(stale)) << "the old memory is still in use";
  memory = GuestMemory();
  EXPECT_FALSE(probe_read(stale));
  EXPECT_TRUE(probe_read(*smaller.host_range(Gpa(0), 8)));
}

TEST(MappedMemory, RegionsCanBeAddedAndRemoved) {
  const UniqueFd fd = make_memfd(4 * kMiB);
  const auto first = map_file_regions({});
  ASSERT_TRUE(first);
  const auto second = add_file_region(*first, region(kMiB, kMiB, fd));
  ASSERT_TRUE(second);
  EXPECT_TRUE(second->load<std::uint8_t>(Gpa(kMiB)));
  EXPECT_EQ(add_file_region(*second, region(0, 2 * kMiB, fd)).error().kind,
            ErrorKind::kInvalidArgument);
  EXPECT_EQ(remove_region(*second, Gpa(kMiB), ByteCount(1)).error().kind, ErrorKind::kOutOfRange);
  const auto third = remove_region(*second, Gpa(kMiB), ByteCount(kMiB));
  ASSERT_TRUE(third);
  EXPECT_TRUE(third->regions().empty());
}

TEST(MappedMemory, RejectsInvalidRegions) {
  const UniqueFd fd = make_memfd(kMiB);
  EXPECT_EQ(error_of({region(0, 0, fd)}).kind, ErrorKind::kInvalidArgument);
  EXPECT_EQ(error_of({region(0, 0x2000, fd), region(0x1000, 0x1000, fd)}),
            Error::make(ErrorKind::kInvalidArgument, "", 0x1000));
  EXPECT_EQ(error_of({region(0, kMiB, fd, 1)}),
            Error::make(ErrorKind::kOutOfRange, "", kMiB + 1, kMiB));
  EXPECT_EQ(error_of({region(0, 0x801, fd), region(0x800, 0x800, fd, 0x801)}).kind,
            ErrorKind::kInvalidArgument)
      << "one byte of both";
  EXPECT_EQ(error_of({region(0, kMiB + 0x1000, fd)}),
            Error::make(ErrorKind::kOutOfRange, "", kMiB + 0x1000, kMiB));
  EXPECT_EQ(error_of({region(0, kMiB, fd, 0x1000)}).kind, ErrorKind::kOutOfRange);
  EXPECT_EQ(error_of({region(~std::uint64_t{0xfff}, 0x2000, fd)}).kind, ErrorKind::kOutOfRange);
  EXPECT_EQ(error_of({region(0, 0x1000, fd, ~std::uint64_t{0xfff})}).kind, ErrorKind::kOutOfRange);
  EXPECT_EQ(error_of({region(0, std::uint64_t{1} << 63, fd, std::uint64_t{1} << 63)}).kind,
            ErrorKind::kOutOfRange);
  EXPECT_EQ(error_of({region(0, 0x1000, UniqueFd(::open("/dev/zero", O_RDWR)))}).kind,
            ErrorKind::kInvalidArgument);
  EXPECT_EQ(error_of({region(0, 0x1000, UniqueFd())}).host_errno, EBADF);
}

/// The number of huge pages in the host's pool; root may change it.
class HugePagePool {
 public:
  HugePagePool() { std::ifstream(kPath) >> before_; }
  HugePagePool(const HugePagePool&) = delete;
  HugePagePool& operator=(const HugePagePool&) = delete;
  /// Pages in use stay in the pool until released.
  ~HugePagePool() {
    if (raised_) std::ofstream(kPath) << before_;
  }
  void add(unsigned pages) {
    raised_ = true;
    std::ofstream(kPath) << before_ + pages;
  }

 private:
  static constexpr const char* kPath = "/proc/sys/vm/nr_hugepages";
  unsigned before_ = 0;
  bool raised_ = false;
};

class HugePageTest : public testing::Test {
 protected:
  static constexpr std::uint64_t kHuge = 2 * kMiB;
  static constexpr unsigned kNeeded = 2;

  void SetUp() override {
    if (!reserve()) pool_.add(kNeeded);
    if (!reserve()) GTEST_SKIP() << "the host has no free huge pages and gives none";
  }

 private:
  bool reserve() {
    file_ = make_memfd(kNeeded * kHuge, MFD_HUGETLB | MFD_HUGE_2MB);
    if (!file_) return false;
    mapping_ = Mapping::shared_file(file_.get(), FileOffset(0), kNeeded * kHuge,
                                    Mapping::Access::kReadWrite)
                   .value_or(Mapping());
    return static_cast<bool>(mapping_);
  }

  HugePagePool pool_;  // before its users: destroyed last

 protected:
  UniqueFd file_;

 private:
  Mapping mapping_;  // reserves the pages for this test
};

TEST_F(HugePageTest, AnAlignedFileOfHugePagesJoinsTheReservation) {
  const std::array regions{region(kHuge, kHuge, file_), region(4 * kHuge, kHuge, file_, kHuge)};
  const auto memory = map_file_regions(regions);
  ASSERT_TRUE(memory) << memory.error().to_string();
  EXPECT_EQ(distance(memory->regions()[0]), distance(memory->regions()[1]));
  EXPECT_TRUE(memory->fill(Gpa(4 * kHuge), std::byte{1}, kHuge));
}

TEST_F(HugePageTest, AMisalignedFileOfHugePagesIsMappedSeparately) {
  const std::array regions{region(0, 0xc0000, file_), region(0x100000, kHuge, file_, 0x100000)};
  const auto memory = map_file_regions(regions);
  ASSERT_TRUE(memory) << memory.error().to_string();
  EXPECT_TRUE(memory->store<std::uint32_t>(Gpa(0x100000 + kHuge - 4), 123));
  const auto whole =
      Mapping::shared_file(file_.get(), FileOffset(0), 2 * kHuge, Mapping::Access::kReadWrite);
  ASSERT_TRUE(whole);
  std::uint32_t seen = 0;
  EXPECT_TRUE(
      try_load(reinterpret_cast<const std::uint32_t*>(whole->data() + 0x100000 + kHuge - 4), seen));
  EXPECT_EQ(seen, 123u);
}

TEST_F(HugePageTest, Rule44ARegionOfAnySizeInAFileOfHugePagesIsMapped) {
  const std::array regions{region(0x5001, 7568, file_, kHuge - 1000)};
  const auto memory = map_file_regions(regions);
  ASSERT_TRUE(memory) << memory.error().to_string();
  EXPECT_TRUE(memory->fill(Gpa(0x5001), std::byte{1}, 7568));
  EXPECT_FALSE(memory->load<std::uint8_t>(Gpa(0x5001 + 7568)));
}

}  // namespace
}  // namespace guestio::mem
