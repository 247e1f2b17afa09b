// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>

#include "guestio/base/error.h"
#include "guestio/base/units.h"

/// RAII for mmap().
namespace guestio {

/// Owns one mapped address range. A move keeps the addresses.
class Mapping {
 public:
  enum class Access { kNone, kRead, kReadWrite };

  Mapping() noexcept = default;
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping();

  /// Private zero-filled memory. Requires: size > 0. Errors: host.
  static Result<Mapping> anonymous(std::size_t size);
  /// Reserves address space (PROT_NONE), aligned to `alignment`, a power of two of at least
  /// kPageSize. An access faults. Errors: host.
  static Result<Mapping> reserve(std::size_t size, std::size_t alignment);
  /// Maps `size` bytes of a file, shared. Errors: host.
  static Result<Mapping> shared_file(int fd, FileOffset offset, std::size_t size, Access access);

  /// Maps `size` bytes of a file, shared, over [at, at + size) of this range.
  /// Requires: the bytes lie inside. Errors: host; the mapping is then unchanged.
  Result<> map_file_at(std::size_t at, int fd, FileOffset offset, std::size_t size, Access access);
  /// Turns [at, at + size) back into reserved address space (PROT_NONE).
  Result<> unmap_at(std::size_t at, std::size_t size);

  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] std::span<std::byte> bytes() const noexcept { return {data_, size_}; }
  [[nodiscard]] explicit operator bool() const noexcept { return data_ != nullptr; }

 private:
  Mapping(std::byte* data, std::size_t size) noexcept : data_(data), size_(size) {}

  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace guestio
