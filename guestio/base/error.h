// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <expected>
#include <string>

/// Errors as small values: made and copied without allocation, turned into text only when printed.
namespace guestio {

/// What went wrong. The comment says what `Error::value` and `Error::limit` mean for the kind.
enum class ErrorKind : std::uint8_t {
  kOutOfRange,       ///< value: what was asked for; limit: what there is.
  kReadOnly,         ///< A write to memory or a disk that may only be read.
  kInvalidGpn,       ///< value: the guest page number.
  kNotLockable,      ///< value: the address that cannot be held for the kernel's use.
  kMemoryFault,      ///< value: the address (guest's or ours) whose access faulted.
  kAccessDenied,     ///< value: the guest address whose access bitmap refuses.
  kTooLarge,         ///< value: what was asked for; limit: the most that is ever granted.
  kTooManySegments,  ///< value: segments asked for; limit: the most that is taken.
  kMisaligned,       ///< value: the address, offset or length; limit: the alignment wanted.
  kCancelled,        ///< Stopped by its owner before it was done.
  kShortTransfer,    ///< value: bytes moved; limit: bytes asked for.
  kDataLost,         ///< A flush failed: what was written before may be gone, now and later.
  kForeignFormat,    ///< An image that is not raw; `what` names the format that it looks like.
  kUnsupported,      ///< Never possible on this file, kernel or protocol version.
  kInvalidArgument,  ///< A value of the caller's or the user's that makes no sense; value: it.
  kBusy,             ///< In use by somebody else.
  kClosed,           ///< The peer went away.
  kPeerFault,        ///< A peer broke the protocol; `what` says which rule, value: the offender.
  kHost,             ///< The operating system refused `what`; `host_errno` says why.
};

/// A failure and its cause. Trivially copyable; `what` always points to a literal.
struct [[nodiscard]] Error {
  ErrorKind kind = ErrorKind::kHost;
  int host_errno = 0;
  const char* what = "";  ///< the operation or rule that failed, a string literal
  std::uint64_t value = 0;
  std::uint64_t limit = 0;

  static constexpr Error make(ErrorKind kind, const char* what, std::uint64_t value = 0,
                              std::uint64_t limit = 0) noexcept {
    return Error{kind, 0, what, value, limit};
  }
  /// The one place where an errno becomes an Error. `error_number` is positive.
  static constexpr Error host(int error_number, const char* what) noexcept {
    return Error{ErrorKind::kHost, error_number, what, 0, 0};
  }
  /// As host(), with the calling thread's errno.
  static Error from_errno(const char* what) noexcept;
  static constexpr Error peer_fault(const char* rule, std::uint64_t value = 0) noexcept {
    return make(ErrorKind::kPeerFault, rule, value);
  }

  /// One line without a full stop, for a person.
  [[nodiscard]] std::string to_string() const;

  friend constexpr bool operator==(const Error& a, const Error& b) noexcept {
    return a.kind == b.kind && a.host_errno == b.host_errno && a.value == b.value &&
           a.limit == b.limit;
  }
};

template <typename T = void>
using Result = std::expected<T, Error>;

/// `return fail(ErrorKind::kReadOnly, "write to guest memory");` in a function that gives a Result.
[[nodiscard]] constexpr std::unexpected<Error> fail(ErrorKind kind, const char* what,
                                                    std::uint64_t value = 0,
                                                    std::uint64_t limit = 0) noexcept {
  return std::unexpected(Error::make(kind, what, value, limit));
}
[[nodiscard]] constexpr std::unexpected<Error> fail(const Error& error) noexcept {
  return std::unexpected(error);
}
[[nodiscard]] std::unexpected<Error> fail_host(const char* what) noexcept;

/// The name of a kind, as it stands in messages and statistics: "out of range".
[[nodiscard]] const char* to_text(ErrorKind kind) noexcept;

}  // namespace guestio
