// SPDX-License-Identifier: MIT
#include "guestio/uring/setup_hint.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <cerrno>
#include <cstdio>
#include <memory>

#include "guestio/base/units.h"

namespace guestio::uring {

namespace {

/// "kernel.io_uring_disabled is 2 (...)".
std::string describe_disabled_sysctl() {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(
      std::fopen("/proc/sys/kernel/io_uring_disabled", "re"), &std::fclose);
  int value = 0;
  if (!file || std::fscanf(file.get(), "%d", &value) != 1) {
    return "this kernel has no kernel.io_uring_disabled";
  }
  switch (value) {
    case 0: return "kernel.io_uring_disabled is 0, which allows it";
    case 1:
      return "kernel.io_uring_disabled is 1: set it to 0, or add this process's group to "
             "kernel.io_uring_group";
    default: return fmt::format("kernel.io_uring_disabled is {}: set it to 0", value);
  }
}

constexpr const char* kSeccompHint =
    "a container's or unit's seccomp profile may block it too: allow io_uring_setup, "
    "io_uring_enter and io_uring_register (SystemCallFilter=, --security-opt seccomp=PROFILE)";

}  // namespace

std::string memlock_limit_hint() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0) return "check RLIMIT_MEMLOCK";
  if (limit.rlim_cur == RLIM_INFINITY) return "RLIMIT_MEMLOCK is unlimited";
  return fmt::format(
      "RLIMIT_MEMLOCK is {}: raise it (LimitMEMLOCK= of the unit, ulimit -l), or grant "
      "CAP_IPC_LOCK",
      format_byte_count(ByteCount(limit.rlim_cur)));
}

std::string setup_failure_hint(const Error& error) {
  if (error.kind != ErrorKind::kHost) return {};
  switch (error.host_errno) {
    case EPERM: return fmt::format("{}; {}", describe_disabled_sysctl(), kSeccompHint);
    case ENOSYS:
      return fmt::format("the kernel lacks io_uring, or a seccomp filter hides it: {}; {}",
                         describe_disabled_sysctl(), kSeccompHint);
    case ENOMEM: return memlock_limit_hint();
    default: return {};
  }
}

}  // namespace guestio::uring
