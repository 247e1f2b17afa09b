// SPDX-License-Identifier: MIT
#include "guestio/disk/rbd/rbd_error.h"

#include <fmt/format.h>

#include <cerrno>
#include <system_error>
#include <utility>

namespace guestio::disk {

std::string describe_rbd_errno(int error) {
  return fmt::format("{} ({})", std::generic_category().message(error), error);
}

std::unexpected<OpenFailure> rbd_failure(int error, const char* what, std::string detail) {
  return std::unexpected(OpenFailure{Error::host(error, what), std::move(detail)});
}

bool is_fenced_errno(int error) noexcept { return error == ESHUTDOWN; }

}  // namespace guestio::disk
