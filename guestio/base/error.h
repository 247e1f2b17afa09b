// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <expected>
#include <string>

/// Errors as small values. Creating and copying one allocates nothing; to_string() makes the text.
namespace guestio {

/// The kind of a failure, with the meaning of `Error::value` and `Error::limit`.
enum class ErrorKind : std::uint8_t {
  kOutOfRange,       ///< value: requested; limit: available.
  kReadOnly,         ///< A write to read-only memory or a read-only disk.
  kInvalidGpn,       ///< value: the guest page number.
  kNotLockable,      ///< value: the address of memory that cannot be locked for the kernel.
  kMemoryFault,      ///< value: the faulting address (guest's or ours).
  kAccessDenied,     ///< value: the guest address denied by its access bitmap.
  kTooLarge,         ///< value: requested; limit: the maximum.
  kTooManySegments,  ///< value: segments requested; limit: the maximum.
  kMisaligned,       ///< value: the address, offset or length; limit: the required alignment.
  kCancelled,        ///< Stopped by its owner before completion.
  kShortTransfer,    ///< value: bytes transferred; limit: bytes requested.
  kDataLost,         ///< A flush failed: earlier writes may be lost for good.
  kForeignFormat,    ///< A non-raw image; `what` names the detected format.
  kUnsupported,      ///< Not supported by this file, kernel or protocol version.
  kInvalidArgument,  ///< An invalid value of the caller or the user; value: it.
  kBusy,             ///< In use by another owner.
  kClosed,           ///< The peer disconnected.
  kPeerFault,        ///< A peer violated the protocol; `what`: the violation, value: the offender.
  kHost,             ///< The operating system refused `what`; `host_errno`: its errno.
};

/// A failure and its cause. Trivially copyable; `what` always points to a literal.
struct [[nodiscard]] Error {
  ErrorKind kind = ErrorKind::kHost;
  int host_errno = 0;
  const char* what = "";  ///< the failed operation or the violation, a string literal
  std::uint64_t value = 0;
  std::uint64_t limit = 0;

  static constexpr Error make(ErrorKind kind, const char* what, std::uint64_t value = 0,
                              std::uint64_t limit = 0) noexcept {
    return Error{kind, 0, what, value, limit};
  }
  /// The only conversion of an errno to an Error. `error_number` is positive.
  static constexpr Error host(int error_number, const char* what) noexcept {
    return Error{ErrorKind::kHost, error_number, what, 0, 0};
  }
  /// As host(), with the calling thread's errno.
  static Error from_errno(const char* what) noexcept;
  /// `violation` states what the peer did: "kick descriptor is not an eventfd".
  static constexpr Error peer_fault(const char* violation, std::uint64_t value = 0) noexcept {
    return make(ErrorKind::kPeerFault, violation, value);
  }

  /// One line for the operator, without a full stop.
  [[nodiscard]] std::string to_string() const;

  friend constexpr bool operator==(const Error& a, const Error& b) noexcept {
    return a.kind == b.kind && a.host_errno == b.host_errno && a.value == b.value &&
           a.limit == b.limit;
  }
};

template <typename T = void>
using Result = std::expected<T, Error>;

/// `return fail(ErrorKind::kReadOnly, "write to guest memory");` in a function returning a Result.
[[nodiscard]] constexpr std::unexpected<Error> fail(ErrorKind kind, const char* what,
                                                    std::uint64_t value = 0,
                                                    std::uint64_t limit = 0) noexcept {
  return std::unexpected(Error::make(kind, what, value, limit));
}
[[nodiscard]] constexpr std::unexpected<Error> fail(const Error& error) noexcept {
  return std::unexpected(error);
}
[[nodiscard]] std::unexpected<Error> fail_host(const char* what) noexcept;

/// The name of a kind in messages and statistics: "out of range".
[[nodiscard]] const char* to_text(ErrorKind kind) noexcept;

}  // namespace guestio
