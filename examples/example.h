// SPDX-License-Identifier: MIT
#pragma once

#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"

/// Helpers shared by the examples.
namespace example {

/// Exits with status 1 unless the condition holds.
inline void expect(bool condition, std::string_view what) {
  if (condition) return;
  fmt::print(stderr, "failed: {}\n", what);
  std::exit(1);
}
inline void expect(const guestio::Result<>& result, std::string_view what) {
  if (result) return;
  fmt::print(stderr, "{}: {}\n", what, result.error().to_string());
  std::exit(1);
}
template <typename T>
T value_of(guestio::Result<T> result, std::string_view what) {
  if (result) return std::move(*result);
  fmt::print(stderr, "{}: {}\n", what, result.error().to_string());
  std::exit(1);
}

/// The content of the example files at `offset`; differs between pages.
inline std::byte file_byte(std::uint64_t offset) {
  return static_cast<std::byte>(offset * 7 + offset / 4096 * 13 + 1);
}

/// An unlinked file of `size` such bytes, with direct I/O if the file system supports it.
inline guestio::UniqueFd make_file(std::size_t size) {
  std::string path = "example-XXXXXX";
  guestio::UniqueFd file(::mkostemp(path.data(), O_CLOEXEC));
  expect(static_cast<bool>(file), "create a file in the current directory");
  ::unlink(path.c_str());
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = file_byte(i);
  const ssize_t written = ::pwrite(file.get(), bytes.data(), size, 0);
  expect(written == static_cast<ssize_t>(size), "write the file");
  if (::fcntl(file.get(), F_SETFL, O_DIRECT) != 0) {
    fmt::print("no direct I/O on this file system; using the page cache\n");
  }
  return file;
}

/// Whether `bytes` match the file from `offset` on.
inline bool is_from_file(std::span<const std::byte> bytes, std::uint64_t offset) {
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] != file_byte(offset + i)) return false;
  }
  return true;
}

}  // namespace example
