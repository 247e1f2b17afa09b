// SPDX-License-Identifier: MIT
#include "guestio/base/error.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <cerrno>
#include <cstring>

namespace guestio {

Error Error::from_errno(const char* what) noexcept { return host(errno, what); }

std::unexpected<Error> fail_host(const char* what) noexcept {
  return std::unexpected(Error::from_errno(what));
}

const char* to_text(ErrorKind kind) noexcept {
  switch (kind) {
    case ErrorKind::kOutOfRange: return "out of range";
    case ErrorKind::kReadOnly: return "read-only";
    case ErrorKind::kInvalidGpn: return "invalid guest page number";
    case ErrorKind::kNotLockable: return "not lockable";
    case ErrorKind::kMemoryFault: return "memory fault";
    case ErrorKind::kAccessDenied: return "access denied";
    case ErrorKind::kTooLarge: return "too large";
    case ErrorKind::kTooManySegments: return "too many segments";
    case ErrorKind::kMisaligned: return "misaligned";
    case ErrorKind::kCancelled: return "cancelled";
    case ErrorKind::kShortTransfer: return "short transfer";
    case ErrorKind::kDataLost: return "data lost";
    case ErrorKind::kForeignFormat: return "not a raw image";
    case ErrorKind::kUnsupported: return "unsupported";
    case ErrorKind::kInvalidArgument: return "invalid argument";
    case ErrorKind::kBusy: return "busy";
    case ErrorKind::kClosed: return "closed by the peer";
    case ErrorKind::kPeerFault: return "protocol violation";
    case ErrorKind::kHost: return "host failure";
  }
  return "unknown error";
}

namespace {

/// The operator's remedy for some errno values.
std::string advice_on(int error_number) {
  rlimit limit{};
  if (error_number == EMFILE && ::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    return fmt::format(" (limit {}: raise LimitNOFILE= or ulimit -n)", limit.rlim_cur);
  }
  if (error_number == ENFILE) return " (raise fs.file-max)";
  return {};
}

}  // namespace

std::string Error::to_string() const {
  switch (kind) {
    case ErrorKind::kHost:
    case ErrorKind::kDataLost: {
      const char* description = strerrordesc_np(host_errno);
      return fmt::format("{}: {}{}", what, description != nullptr ? description : "unknown errno",
                         advice_on(host_errno));
    }
    case ErrorKind::kOutOfRange:
    case ErrorKind::kTooLarge:
    case ErrorKind::kTooManySegments:
      return fmt::format("{}: {} ({} requested, limit {})", what, to_text(kind), value, limit);
    case ErrorKind::kShortTransfer:
      return fmt::format("{}: {} ({} of {} bytes)", what, to_text(kind), value, limit);
    case ErrorKind::kMisaligned:
      return fmt::format("{}: {:#x} is not a multiple of {}", what, value, limit);
    case ErrorKind::kInvalidGpn:
    case ErrorKind::kNotLockable:
    case ErrorKind::kMemoryFault:
    case ErrorKind::kAccessDenied:
      return fmt::format("{}: {} at {:#x}", what, to_text(kind), value);
    case ErrorKind::kForeignFormat:
      return fmt::format(
          "not a raw image: it starts or ends as {} does, and served as raw it would be destroyed "
          "by the guest's first write: name its format (format=qcow2 and others), convert it "
          "(qemu-img convert -O raw), or say format=raw if it is raw and the guest wrote that "
          "signature, as encryption inside the guest does",
          what);
    case ErrorKind::kPeerFault:
    case ErrorKind::kInvalidArgument: return fmt::format("{}: {} ({})", what, to_text(kind), value);
    case ErrorKind::kReadOnly:
    case ErrorKind::kCancelled:
    case ErrorKind::kUnsupported:
    case ErrorKind::kBusy:
    case ErrorKind::kClosed: return fmt::format("{}: {}", what, to_text(kind));
  }
  return what;
}

}  // namespace guestio
