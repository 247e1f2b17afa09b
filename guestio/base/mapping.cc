// SPDX-License-Identifier: MIT
#include "guestio/base/mapping.h"

#include <sys/mman.h>

#include <utility>

#include "guestio/base/check.h"

namespace guestio {

namespace {

int to_protection(Mapping::Access access) noexcept {
  switch (access) {
    case Mapping::Access::kNone: return PROT_NONE;
    case Mapping::Access::kRead: return PROT_READ;
    case Mapping::Access::kReadWrite: return PROT_READ | PROT_WRITE;
  }
  return PROT_NONE;
}

constexpr int kReserveFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

}  // namespace

Mapping::Mapping(Mapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

Mapping::~Mapping() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

Result<Mapping> Mapping::anonymous(std::size_t size) {
  void* address = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) return fail_host("mmap of anonymous memory");
  return Mapping(static_cast<std::byte*>(address), size);
}

Result<Mapping> Mapping::reserve(std::size_t size, std::size_t alignment) {
  GUESTIO_CHECK(alignment >= kPageSize && std::has_single_bit(alignment),
                "an alignment that is a power of two of at least a page");
  const auto padded = checked_add(size, alignment - kPageSize);
  if (!padded) return fail(ErrorKind::kTooLarge, "reserve address space", size);
  void* address = ::mmap(nullptr, *padded, PROT_NONE, kReserveFlags, -1, 0);
  if (address == MAP_FAILED) return fail_host("reserve address space");
  // Unmap the surplus before and after the aligned range.
  auto* start = static_cast<std::byte*>(address);
  const auto raw = reinterpret_cast<std::uintptr_t>(start);
  const std::size_t before = align_up(raw, alignment) - raw;
  const std::size_t after = *padded - before - size;
  if (before != 0) ::munmap(start, before);
  if (after != 0) ::munmap(start + before + size, after);
  return Mapping(start + before, size);
}

Result<Mapping> Mapping::shared_file(int fd, FileOffset offset, std::size_t size, Access access) {
  void* address = ::mmap(nullptr, size, to_protection(access), MAP_SHARED, fd,
                         static_cast<off_t>(offset.raw()));
  if (address == MAP_FAILED) return fail_host("mmap of a file");
  return Mapping(static_cast<std::byte*>(address), size);
}

Result<> Mapping::map_file_at(std::size_t at, int fd, FileOffset offset, std::size_t size,
                              Access access) {
  GUESTIO_CHECK(fits_within(at, size, size_), "a range inside the mapping");
  void* address = ::mmap(data_ + at, size, to_protection(access), MAP_SHARED | MAP_FIXED, fd,
                         static_cast<off_t>(offset.raw()));
  if (address == MAP_FAILED) return fail_host("mmap of a file over reserved addresses");
  return {};
}

Result<> Mapping::unmap_at(std::size_t at, std::size_t size) {
  GUESTIO_CHECK(fits_within(at, size, size_), "a range inside the mapping");
  void* address = ::mmap(data_ + at, size, PROT_NONE, kReserveFlags | MAP_FIXED, -1, 0);
  if (address == MAP_FAILED) return fail_host("replace a mapping by reserved addresses");
  return {};
}

}  // namespace guestio
