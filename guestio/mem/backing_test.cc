// SPDX-License-Identifier: MIT
// Guest memory over a backing with bitmaps, fault handling, fallbacks and page locks.
#include "guestio/mem/backing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <memory>

#include "guestio/mem/guest_memory.h"
#include "guestio/mem/test/guarded_backing.h"
#include "guestio/mem/test/places.h"

namespace guestio::mem {
namespace {

using test::range;

using test::GuardedBacking;
using testing::ElementsAre;
using testing::IsEmpty;
using Extent = GuardedBacking::Extent;

/// A memory of one guarded region at guest address 0x100000.
struct Guarded {
  std::shared_ptr<GuardedBacking> backing;
  GuestMemory memory;

  explicit Guarded(const GuardedBacking::Options& options)
      : backing(std::make_shared<GuardedBacking>(options)) {
    const RegionSpec spec{kStart, ByteCount(options.size), backing};
    memory = *GuestMemory::create({&spec, 1});
  }
  static constexpr Gpa kStart{0x100000};
};

constexpr GuardedBacking::Options kBitmaps{.read_bitmap = true, .write_bitmap = true};

Error denied(std::uint64_t address) { return Error::make(ErrorKind::kAccessDenied, "", address); }

TEST(Backing, BitmapsControlReadsAndWritesSeparately) {
  Guarded guest(kBitmaps);
  guest.backing->allow(Access::kWrite, 2, false);
  guest.backing->allow(Access::kRead, 3, false);
  std::array<std::byte, 0x1800> buffer{};
  EXPECT_TRUE(guest.memory.read(Gpa(0x101000), buffer));
  EXPECT_EQ(guest.memory.read(Gpa(0x102000), buffer).error(), denied(0x103000));
  EXPECT_EQ(guest.memory.write(Gpa(0x101000), buffer).error(), denied(0x102000));
  EXPECT_TRUE(guest.memory.write(Gpa(0x103000), buffer));
  EXPECT_EQ(guest.memory.load<std::uint32_t>(Gpa(0x103008)).error(), denied(0x103008));
  EXPECT_EQ(guest.memory.store<std::uint32_t>(Gpa(0x102008), 1).error(), denied(0x102008));
  std::uint32_t word = 0;
  EXPECT_EQ(guest.memory.compare_exchange(Gpa(0x102008), word, 1).error(), denied(0x102008));
  EXPECT_EQ(guest.memory.compare_exchange(Gpa(0x103008), word, 1).error(), denied(0x103008));
  EXPECT_EQ(guest.memory.compare_exchange(Gpa(0x104008), word, 1), true);
}

TEST(Backing, PagesPastTheEndOfABitmapAreDenied) {
  class ShortBitmap final : public PlainBacking {
   public:
    std::span<std::byte> mapping() const noexcept override { return memory_.bytes(); }
    Mapping::Access access() const noexcept override { return Mapping::Access::kReadWrite; }
    std::optional<AccessBitmap> bitmap(Access) const noexcept override {
      return AccessBitmap(words_);
    }

   private:
    Mapping memory_ = *Mapping::anonymous(65 * kPageSize);
    std::array<std::atomic<std::uint64_t>, 1> words_{~std::uint64_t{0}};
  };
  const RegionSpec spec{Gpa(0), ByteCount(65 * kPageSize), std::make_shared<ShortBitmap>()};
  const GuestMemory memory = *GuestMemory::create({&spec, 1});
  EXPECT_TRUE(memory.load<std::uint8_t>(Gpa(63 * kPageSize)));
  EXPECT_EQ(memory.load<std::uint8_t>(Gpa(64 * kPageSize)).error(), denied(64 * kPageSize));
}

TEST(Backing, Fault12AnUnalignedViewChecksTheRightPage) {
  Guarded guest(kBitmaps);
  guest.backing->allow(Access::kRead, 2, false);
  const GuestMemory view = *guest.memory.subrange(range(0x100800, 0x8000));
  EXPECT_TRUE(view.load<std::uint8_t>(Gpa(0x17ff)));
  EXPECT_EQ(view.load<std::uint8_t>(Gpa(0x1800)).error(), denied(0x1800));
  EXPECT_EQ(view.load<std::uint8_t>(Gpa(0x27ff)).error(), denied(0x27ff));
  EXPECT_TRUE(view.load<std::uint8_t>(Gpa(0x2800)));
  const GuestMemory inner = *view.subrange(range(0x1001, 0x4000));
  EXPECT_TRUE(inner.load<std::uint8_t>(Gpa(0x7fe)));
  EXPECT_EQ(inner.load<std::uint8_t>(Gpa(0x7ff)).error(), denied(0x7ff));
  SegmentArray<4> segments;
  EXPECT_EQ(view.lock(range(0x1000, 0x900), Access::kRead, segments).error(), denied(0x1800));
  EXPECT_EQ(view.probe(range(0x1000, 0x900), Access::kRead).error(), denied(0x1800));
}

TEST(Backing, ABitmapMayChangeAtAnyTime) {
  Guarded guest(kBitmaps);
  guest.backing->allow(Access::kRead, 0, false);
  EXPECT_FALSE(guest.memory.load<std::uint8_t>(Guarded::kStart));
  guest.backing->allow(Access::kRead, 0, true);
  EXPECT_TRUE(guest.memory.load<std::uint8_t>(Guarded::kStart));
}

TEST(Backing, TheBackingIsNotifiedOfFaultsAndDenials) {
  Guarded guest(kBitmaps);
  guest.backing->allow(Access::kWrite, 1, false);
  guest.backing->protect(3, Mapping::Access::kNone);
  EXPECT_FALSE(guest.memory.fill(Gpa(0x100f00), std::byte{1}, 0x1000));
  EXPECT_FALSE(guest.memory.fill(Gpa(0x102f00), std::byte{1}, 0x1000));
  ASSERT_EQ(guest.backing->faults.size(), 2u);
  const PageFault& refused = guest.backing->faults[0];
  EXPECT_EQ(refused.offset, 0x1000u);
  EXPECT_EQ(refused.length, 0xf00u);
  EXPECT_EQ(refused.access, Access::kWrite);
  EXPECT_EQ(refused.cause, PageFault::Cause::kDenied);
  EXPECT_EQ(guest.backing->faults[1].cause, PageFault::Cause::kFaulted);
  EXPECT_EQ(guest.backing->faults[1].offset, 0x3000u);
}

TEST(Backing, ARetryContinuesAtTheFault) {
  Guarded guest({});
  guest.backing->protect(1, Mapping::Access::kNone);
  guest.backing->protect(2, Mapping::Access::kNone);
  guest.backing->fault_hook = [&](const PageFault& fault) {
    guest.backing->protect(fault.offset / kPageSize, Mapping::Access::kReadWrite);
    return FaultAction::kRetry;
  };
  std::array<std::byte, 0x3000> data;
  data.fill(std::byte{7});
  EXPECT_TRUE(guest.memory.write(Gpa(0x100800), data));
  EXPECT_EQ(guest.backing->faults.size(), 2u);
  EXPECT_TRUE(std::ranges::all_of(guest.backing->bytes().subspan(0x800, 0x3000),
                                  [](std::byte b) { return b == std::byte{7}; }));
}

TEST(Backing, Fault18RetriesAreBounded) {
  Guarded guest(kBitmaps);
  guest.backing->protect(1, Mapping::Access::kNone);
  guest.backing->allow(Access::kRead, 3, false);
  guest.backing->fault_hook = [](const PageFault&) { return FaultAction::kRetry; };
  std::array<std::byte, 8> buffer{};
  EXPECT_EQ(guest.memory.read(Gpa(0x101000), buffer).error(),
            Error::make(ErrorKind::kMemoryFault, "", 0x101000));
  EXPECT_EQ(guest.memory.load<std::uint64_t>(Gpa(0x103000)).error(), denied(0x103000));
  std::uint64_t word = 0;
  EXPECT_EQ(guest.memory.compare_exchange(Gpa(0x101000), word, 1).error().kind,
            ErrorKind::kMemoryFault);
  EXPECT_EQ(guest.memory.probe(range(0x101000, 1), Access::kRead).error().kind,
            ErrorKind::kMemoryFault);
  SegmentArray<1> segments;
  EXPECT_FALSE(guest.memory.lock(range(0x103000, 1), Access::kRead, segments));
  EXPECT_LT(guest.backing->faults.size(), 100u);
}

TEST(Backing, AFallbackServesTheFaultingPage) {
  Guarded guest({});
  guest.backing->protect(1, Mapping::Access::kNone);
  guest.backing->fault_hook = [](const PageFault&) { return FaultAction::kFallBack; };
  std::array<std::byte, 0x2000> data;
  data.fill(std::byte{9});
  EXPECT_TRUE(guest.memory.write(Gpa(0x100800), data));
  EXPECT_THAT(guest.backing->fallbacks, ElementsAre(Extent{0x1000, 0x1000}));
  std::array<std::byte, 0x2000> back{};
  EXPECT_TRUE(guest.memory.read(Gpa(0x100800), back));
  EXPECT_EQ(back, data);
  EXPECT_TRUE(guest.memory.fill(Gpa(0x101ffe), std::byte{3}, 4));
  EXPECT_EQ(guest.memory.load<std::uint32_t>(Gpa(0x101ffc)), 0x03030909u);
  EXPECT_TRUE(guest.memory.store<std::uint16_t>(Gpa(0x101000), 0x1234));
  std::uint16_t word = 0;
  EXPECT_EQ(guest.memory.compare_exchange(Gpa(0x101000), word, 5), false);
  EXPECT_EQ(word, 0x1234);
  EXPECT_EQ(guest.memory.compare_exchange(Gpa(0x101000), word, 5), true);
  EXPECT_EQ(guest.backing->bytes()[0x1000], std::byte{5});
}

TEST(Backing, UnmappedMemoryIsAccessedByFallbackOnly) {
  Guarded guest({.mapped = 0});
  EXPECT_TRUE(guest.memory.store<std::uint64_t>(Gpa(0x100008), 77));
  EXPECT_EQ(guest.memory.load<std::uint64_t>(Gpa(0x100008)), 77u);
  std::uint64_t word = 77;
  EXPECT_EQ(guest.memory.compare_exchange(Gpa(0x100008), word, 78), true);
  EXPECT_TRUE(guest.memory.fill(Gpa(0x100000), std::byte{1}, 0x10000));
  EXPECT_TRUE(guest.memory.probe(range(0x100000, 0x10000), Access::kRead));
  EXPECT_THAT(guest.backing->faults, IsEmpty());
  SegmentArray<1> segments;
  EXPECT_EQ(guest.memory.lock(range(0x100010, 8), Access::kRead, segments).error(),
            Error::make(ErrorKind::kNotLockable, "", 0x100010));
  EXPECT_EQ(guest.memory.host_range(Gpa(0x100000), 8).error().kind, ErrorKind::kNotLockable);
}

TEST(Backing, AMappingMayCoverOnlyAPart) {
  Guarded guest({.mapped = 0x1804});
  EXPECT_TRUE(guest.memory.fill(Gpa(0x101000), std::byte{2}, 0x1000));
  EXPECT_THAT(guest.backing->fallbacks, ElementsAre(Extent{0x1804, 0x7fc}));
  EXPECT_EQ(guest.memory.load<std::uint64_t>(Gpa(0x101800)), 0x0202020202020202u);
  std::uint64_t word = 0;
  EXPECT_EQ(guest.memory.compare_exchange(Gpa(0x101800), word, 5), false);
  SegmentArray<1> segments;
  EXPECT_TRUE(guest.memory.lock(range(0x101000, 0x804), Access::kRead, segments));
  EXPECT_FALSE(guest.memory.lock(range(0x101000, 0x805), Access::kRead, segments));
  EXPECT_FALSE(guest.memory.lock(range(0x102000, 1), Access::kRead, segments));
}

TEST(Backing, BitmapsGuardLocks) {
  Guarded guest(kBitmaps);
  guest.backing->allow(Access::kWrite, 2, false);
  SegmentArray<2> segments;
  EXPECT_TRUE(guest.memory.lock(range(0x100000, 0x4000), Access::kRead, segments));
  EXPECT_EQ(segments.size(), 1u);
  EXPECT_EQ(guest.memory.lock(range(0x100000, 0x4000), Access::kWrite, segments).error(),
            denied(0x102000));
  EXPECT_THAT(segments, IsEmpty());
  EXPECT_TRUE(guest.memory.lock(range(0x103000, 0x1000), Access::kWrite, segments));
  EXPECT_EQ(guest.memory.host_range(Gpa(0x103000), 8).error().kind, ErrorKind::kNotLockable);
}

TEST(Backing, ExposesMemoryAndReturnsIovasByOffset) {
  Guarded guest({});
  const GuestMemory view = *guest.memory.subrange(range(0x101800, 0x1000));
  EXPECT_TRUE(view.expose(range(0x10, 0x20)));
  EXPECT_THAT(guest.backing->exposed, ElementsAre(Extent{0x1810, 0x20}));
  EXPECT_EQ(view.iova(Gpa(0x10)), 0x8000'1810u);
  EXPECT_EQ(view.iova(Gpa(0x1000)), std::nullopt);
}

constexpr GuardedBacking::Options kHeld{.lock_mode = LockMode::kLockPages};

TEST(PageLocks, LastAsLongAsTheLock) {
  Guarded guest(kHeld);
  const std::array gpns{Gpn(0x101), Gpn(0x102), Gpn(0x105)};
  SegmentArray<4> segments;
  {
    auto lock =
        guest.memory.lock(*PagedRange::from_pages(0x10, 0x2010, gpns), Access::kWrite, segments);
    ASSERT_TRUE(lock);
    EXPECT_THAT(guest.backing->locked, ElementsAre(Extent{0x1010, 0x1ff0}, Extent{0x5000, 0x20}));
    const PageLock moved = std::move(*lock);
    EXPECT_EQ(guest.backing->unlocks, 0u);
  }
  EXPECT_EQ(guest.backing->unlocks, 2u);
  EXPECT_THAT(guest.backing->locked, IsEmpty());
}

TEST(PageLocks, AssignmentReleasesThePreviousLock) {
  Guarded guest(kHeld);
  SegmentArray<1> segments;
  PageLock lock = *guest.memory.lock(range(0x100000, 8), Access::kRead, segments);
  lock = *guest.memory.lock(range(0x101000, 8), Access::kRead, segments);
  EXPECT_THAT(guest.backing->locked, ElementsAre(Extent{0x1000, 8}));
  lock.release();
  EXPECT_THAT(guest.backing->locked, IsEmpty());
}

TEST(PageLocks, Fault13AViewUsesTheLocksOfItsBacking) {
  Guarded guest(kHeld);
  const GuestMemory view = *guest.memory.subrange(range(0x101800, 0x2000));
  SegmentArray<1> segments;
  const auto lock = view.lock(range(0x10, 0x20), Access::kRead, segments);
  ASSERT_TRUE(lock);
  EXPECT_THAT(guest.backing->locked, ElementsAre(Extent{0x1810, 0x20}));
  EXPECT_EQ(view.host_range(Gpa(0x10), 8).error().kind, ErrorKind::kNotLockable)
      << "nor can an address in place";
}

TEST(PageLocks, Fault13EveryHandleOfTheMemoryUsesThem) {
  Guarded guest(kHeld);
  const auto log = std::make_shared<DirtyLog>(*DirtyLog::for_memory(ByteCount(0x200000)));
  const GuestMemory again = *GuestMemory::create(guest.memory.specs());
  const std::array handles{guest.memory, guest.memory.with_dirty_log(log), again,
                           *again.subrange(range(0x100000, 0x10000))->subrange(range(0, 0x8000))};
  for (const GuestMemory& memory : handles) {
    const Gpa start = memory.regions()[0].start;
    SegmentArray<1> segments;
    const auto lock = memory.lock(AddressRange::from_checked(start, 8), Access::kWrite, segments);
    ASSERT_TRUE(lock);
    EXPECT_THAT(guest.backing->locked, ElementsAre(Extent{0, 8}));
  }
  EXPECT_THAT(guest.backing->locked, IsEmpty());
}

TEST(PageLocks, Fault14APartiallyFailedLockLeavesNothingLocked) {
  Guarded guest(kHeld);
  guest.backing->fail_lock = 2;
  const std::array chain{range(0x100000, 8), range(0x102000, 8), range(0x104000, 8),
                         range(0x106000, 8)};
  SegmentArray<4> segments;
  const auto lock =
      guest.memory.lock(std::span<const AddressRange>(chain), Access::kWrite, segments);
  EXPECT_EQ(lock.error(), Error::make(ErrorKind::kNotLockable, "", 0x4000));
  EXPECT_THAT(segments, IsEmpty());
  EXPECT_EQ(guest.backing->locks, 3u) << "no lock after the failure";
  EXPECT_EQ(guest.backing->unlocks, 2u) << "exactly the locked pages are unlocked";
  EXPECT_THAT(guest.backing->locked, IsEmpty());
}

TEST(PageLocks, Fault14ARangeBeyondMemoryUnlocksItsLockedPages) {
  Guarded guest(kHeld);
  SegmentArray<4> segments;
  EXPECT_EQ(guest.memory.lock(range(0x10fff8, 9), Access::kRead, segments).error().kind,
            ErrorKind::kOutOfRange);
  EXPECT_EQ(guest.backing->unlocks, guest.backing->locks);
}

TEST(PageLocks, Fault11PartialLastPagesAndFullRegionsCanBeLocked) {
  for (const std::size_t size : {0x1000u, 0x1001u, 0x1fffu, 0x2000u, 0x10000u, 0xfffu, 1u}) {
    for (const LockMode need : {LockMode::kNothing, LockMode::kProbe, LockMode::kLockPages}) {
      Guarded guest({.size = size, .read_bitmap = true, .write_bitmap = true, .lock_mode = need});
      SegmentArray<1> segments;
      EXPECT_TRUE(guest.memory.lock(range(0x100000, size), Access::kWrite, segments));
      EXPECT_THAT(segments, ElementsAre(HostSegment{guest.backing->mapping().data(), size}));
      EXPECT_TRUE(guest.memory.lock(range(0x100000 + size - 1, 1), Access::kRead, segments));
      EXPECT_FALSE(guest.memory.lock(range(0x100000 + size, 1), Access::kRead, segments));
      const std::array last_page{Gpn((0x100000 + size - 1) / kPageSize)};
      EXPECT_EQ(guest.memory.lock(PagedRange::from_whole_pages(last_page), Access::kRead, segments)
                    .has_value(),
                size % kPageSize == 0);
    }
  }
}

TEST(PageLocks, Fault11AReadOnlyPageFailsALockForWriting) {
  Guarded guest({.lock_mode = LockMode::kProbe});
  guest.backing->protect(1, Mapping::Access::kRead);
  SegmentArray<1> segments;
  EXPECT_TRUE(guest.memory.lock(range(0x100000, 0x3000), Access::kRead, segments));
  EXPECT_EQ(guest.memory.lock(range(0x100000, 0x3000), Access::kWrite, segments).error(),
            Error::make(ErrorKind::kMemoryFault, "", 0x101000));
}

TEST(PageLocks, Fault15ALockForWritingProbesForWriting) {
  Guarded guest({.lock_mode = LockMode::kProbe});
  guest.backing->protect(2, Mapping::Access::kRead);
  guest.backing->bytes()[0x2000] = std::byte{0x77};
  guest.backing->fault_hook = [&](const PageFault& fault) {
    guest.backing->protect(fault.offset / kPageSize, Mapping::Access::kReadWrite);
    return FaultAction::kRetry;
  };
  SegmentArray<1> segments;
  EXPECT_TRUE(guest.memory.lock(range(0x102000, 0x1000), Access::kRead, segments));
  EXPECT_THAT(guest.backing->faults, IsEmpty());
  EXPECT_TRUE(guest.memory.lock(range(0x102000, 0x1000), Access::kWrite, segments));
  ASSERT_EQ(guest.backing->faults.size(), 1u);
  EXPECT_EQ(guest.backing->faults[0].access, Access::kWrite);
  EXPECT_EQ(guest.backing->bytes()[0x2000], std::byte{0x77}) << "a probe changes nothing";
}

TEST(PageLocks, Fault22OnlyBackingsInProbeModeAreProbed) {
  Guarded plain({});
  plain.backing->protect(1, Mapping::Access::kNone);
  SegmentArray<1> segments;
  EXPECT_TRUE(plain.memory.lock(range(0x100000, 0x3000), Access::kRead, segments))
      << "the kernel returns EFAULT";
  EXPECT_THAT(plain.backing->faults, IsEmpty());
  Guarded guarded(kBitmaps);
  guarded.backing->protect(1, Mapping::Access::kNone);
  EXPECT_TRUE(guarded.memory.lock(range(0x100000, 0x3000), Access::kRead, segments))
      << "the bitmap is checked, and no page is touched";
  EXPECT_THAT(guarded.backing->faults, IsEmpty());
  Guarded probed({.lock_mode = LockMode::kProbe});
  probed.backing->protect(1, Mapping::Access::kNone);
  EXPECT_FALSE(probed.memory.lock(range(0x100000, 0x3000), Access::kRead, segments));
}

TEST(PageLocks, Fault22PagesAreMergedByHostAddressAcrossRegions) {
  // Two regions, far apart in guest memory and adjacent in one backing.
  const auto backing = std::make_shared<GuardedBacking>(GuardedBacking::Options{});
  const std::array specs{RegionSpec{Gpa(0x900000), ByteCount(0x1000), backing, 0},
                         RegionSpec{Gpa(0x100000), ByteCount(0x2000), backing, 0x1000}};
  const GuestMemory memory = *GuestMemory::create(specs);
  const std::array gpns{Gpn(0x900), Gpn(0x100), Gpn(0x101)};
  SegmentArray<4> segments;
  ASSERT_TRUE(memory.lock(PagedRange::from_whole_pages(gpns), Access::kRead, segments));
  EXPECT_THAT(segments, ElementsAre(HostSegment{backing->mapping().data(), 0x3000}));
}

TEST(Backing, Fault22AdjacentPagesAreCopiedInOneOperation) {
  Guarded guest({.mapped = 0});
  const std::array gpns{Gpn(0x102), Gpn(0x103), Gpn(0x104), Gpn(0x101)};
  const auto scattered = *PagedRange::from_pages(0x10, 0x3800, gpns);
  std::array<std::byte, 0x3800> data{};
  EXPECT_TRUE(guest.memory.write(scattered, data));
  EXPECT_TRUE(guest.memory.read(scattered, data));
  const Extent three{0x2010, 0x2ff0};
  const Extent one{0x1000, 0x810};
  EXPECT_THAT(guest.backing->fallbacks, ElementsAre(three, one, three, one));
}

TEST(PageLocks, LengthsAtEveryBoundaryGiveExactSegments) {
  Guarded guest({.lock_mode = LockMode::kProbe});
  std::byte* const host = guest.backing->mapping().data();
  for (const std::uint64_t start : {0x0u, 0x1u, 0xfffu, 0x1000u, 0xefffu}) {
    for (const std::uint64_t length : {1u, 4095u, 4096u, 4097u}) {
      SegmentArray<1> segments;
      ASSERT_TRUE(guest.memory.lock(range(0x100000 + start, length), Access::kWrite, segments)
                      .has_value() ||
                  start + length > 0x10000);
      if (start + length > 0x10000) continue;
      EXPECT_THAT(segments, ElementsAre(HostSegment{host + start, length}));
    }
  }
}

}  // namespace
}  // namespace guestio::mem
