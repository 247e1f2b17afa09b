// SPDX-License-Identifier: MIT
// A guest after a post-copy migration: its memory arrives page by page on demand. The device is
// unaware of that and reads, writes and locks as usual.
//
// Shown here:
//   - a custom Backing handles page faults;
//   - LockMode::kProbe fetches pages before the kernel gets their addresses;
//   - a DirtyLog records the writes of the device for the next migration.
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <optional>
#include <vector>

#include "example.h"
#include "guestio/base/mapping.h"
#include "guestio/base/standard_fds.h"
#include "guestio/buf/request_buffers.h"
#include "guestio/mem/dirty_log.h"
#include "guestio/mem/guest_memory.h"

using namespace guestio;
using example::expect;
using example::value_of;

namespace {

constexpr std::size_t kPages = 16;
constexpr std::size_t kLost = 9;  // unavailable on the source

/// Fetches a page from the source.
std::optional<std::vector<std::byte>> fetch_page(std::size_t page) {
  if (page == kLost) return std::nullopt;
  return std::vector<std::byte>(kPageSize, static_cast<std::byte>(page));
}

}  // namespace

//! [backing]
/// Pages are reserved address space until the first access.
class ArrivingBacking final : public mem::PlainBacking {
 public:
  ArrivingBacking(UniqueFd file, Mapping reserved)
      : file_(std::move(file)), mapping_(std::move(reserved)) {}

  std::span<std::byte> mapping() const noexcept override { return mapping_.bytes(); }
  Mapping::Access access() const noexcept override { return Mapping::Access::kReadWrite; }
  // The kernel would get EFAULT and cannot request the page.
  mem::LockMode lock_mode() const noexcept override { return mem::LockMode::kProbe; }

  mem::FaultAction on_page_fault(const mem::PageFault& fault) noexcept override {
    const std::size_t page = fault.offset / kPageSize;
    const std::scoped_lock lock(mutex_);
    if (arrived_[page]) return mem::FaultAction::kRetry;  // by another thread
    const auto bytes = fetch_page(page);
    if (!bytes) return mem::FaultAction::kFail;
    const auto at = static_cast<off_t>(page * kPageSize);
    if (::pwrite(file_.get(), bytes->data(), kPageSize, at) != ssize_t{kPageSize} ||
        !mapping_.map_file_at(page * kPageSize, file_.get(), FileOffset(page * kPageSize),
                              kPageSize, Mapping::Access::kReadWrite)) {
      return mem::FaultAction::kFail;
    }
    arrived_[page] = true;
    return mem::FaultAction::kRetry;
  }
  //! [backing]

  std::size_t arrived() {
    const std::scoped_lock lock(mutex_);
    return static_cast<std::size_t>(std::count(arrived_.begin(), arrived_.end(), true));
  }

 private:
  const UniqueFd file_;
  Mapping mapping_;
  std::mutex mutex_;
  // protected by mutex_
  std::array<bool, kPages> arrived_{};
};

int main() {
  guestio::open_standard_fds();
  constexpr std::size_t kBytes = kPages * kPageSize;
  UniqueFd file(::memfd_create("arriving", MFD_CLOEXEC));
  expect(::ftruncate(file.get(), kBytes) == 0, "memfd for guest memory");
  auto reserved = value_of(Mapping::reserve(kBytes, kPageSize), "reserve address space");

  //! [create]
  const auto backing = std::make_shared<ArrivingBacking>(std::move(file), std::move(reserved));
  const std::array regions = {mem::RegionSpec{Gpa(0x100000), ByteCount(kBytes), backing}};
  const auto log = std::make_shared<mem::DirtyLog>(
      value_of(mem::DirtyLog::for_memory(ByteCount(0x200000)), "dirty log"));
  const mem::GuestMemory memory =
      value_of(mem::GuestMemory::create(regions), "guest memory").with_dirty_log(log);
  //! [create]

  //! [use]
  // Bytes of two pages; their arrival is invisible to the caller.
  std::array<std::byte, 16> bytes{};
  expect(memory.read(Gpa(0x103ff8), bytes), "read across two pages");
  expect(bytes[7] == std::byte{3} && bytes[8] == std::byte{4}, "pages 3 and 4 have arrived");

  // A lost page gives an error with its address and affects nothing else.
  const auto missing = memory.load<std::uint32_t>(Gpa(0x109010));
  expect(!missing && missing.error().value == 0x109010, "page 9 is a memory fault");
  //! [use]
  expect(backing->arrived() == 2, "only accessed pages are fetched");

  //! [lock]
  // Pages 6 and 7 arrive before the kernel gets their addresses.
  const auto range =
      value_of(mem::AddressRange::from_start_and_length(Gpa(0x106000), 2 * kPageSize), "buffer");
  const buf::RequestBuffers buffers(memory, range, buf::MemoryAccess::kWritable);
  const auto locked = value_of(buffers.lock(buf::MemoryAccess::kWritable), "lock");
  const UniqueFd disk = example::make_file(buffers.size());
  const auto iovecs = buf::as_iovecs(locked.segments());
  const ssize_t got = ::preadv(disk.get(), iovecs.data(), static_cast<int>(iovecs.size()), 0);
  expect(buffers.mark_written(), "mark the dirty log");
  //! [lock]
  expect(got == static_cast<ssize_t>(buffers.size()), "the kernel reads into both pages");
  expect(backing->arrived() == 4, "both pages were fetched first");

  //! [dirty log]
  // Pages to send again at the next migration.
  expect(log->is_marked(Gpn(0x106)) && log->is_marked(Gpn(0x107)), "written by the kernel");
  expect(!log->is_marked(Gpn(0x103)), "pages only read are not marked");
  //! [dirty log]
  fmt::print("{} of {} pages have arrived\n", backing->arrived(), kPages);
}
