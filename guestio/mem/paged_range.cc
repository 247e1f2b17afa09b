// SPDX-License-Identifier: MIT
#include "guestio/mem/paged_range.h"

namespace guestio::mem {

std::unexpected<Error> internal::fail_outside_window(std::uint64_t offset, std::uint64_t length,
                                                     std::uint64_t available) noexcept {
  return fail(ErrorKind::kOutOfRange, "bytes of a guest range", length,
              offset <= available ? available - offset : 0);
}

std::unexpected<Error> internal::fail_gpn(Gpn page) noexcept {
  return fail(ErrorKind::kInvalidGpn, "page list", page.raw());
}

}  // namespace guestio::mem
