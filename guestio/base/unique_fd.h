// SPDX-License-Identifier: MIT
#pragma once

#include <unistd.h>

#include <utility>

#include "guestio/base/error.h"

namespace guestio {

/// Owns one file descriptor.
class UniqueFd {
 public:
  constexpr UniqueFd() noexcept = default;
  constexpr explicit UniqueFd(int fd) noexcept : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(other.release());
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { reset(); }

  /// The descriptor, still owned; -1 when empty.
  [[nodiscard]] int get() const noexcept { return fd_; }
  [[nodiscard]] explicit operator bool() const noexcept { return fd_ >= 0; }
  /// Gives up ownership.
  [[nodiscard]] int release() noexcept { return std::exchange(fd_, -1); }
  void reset(int fd = -1) noexcept {
    const int old = std::exchange(fd_, fd);
    if (old >= 0) ::close(old);
  }

 private:
  int fd_ = -1;
};

/// Another descriptor of the same open file, close-on-exec; an empty one for -1. Errors: host
/// (EMFILE, ENFILE); the caller must not continue without the descriptor.
[[nodiscard]] Result<UniqueFd> duplicate_fd(int fd) noexcept;
[[nodiscard]] inline Result<UniqueFd> duplicate_fd(const UniqueFd& fd) noexcept {
  return duplicate_fd(fd.get());
}

}  // namespace guestio
