// SPDX-License-Identifier: MIT
#include "guestio/disk/file/errno_class.h"

#include <cerrno>

namespace guestio::disk {

bool is_shortage(std::int32_t result) noexcept {
  switch (-result) {
    case EAGAIN:
    case EBUSY:
    case ECANCELED:
    case EINTR:
    case ENOBUFS:
    case ENOMEM: return true;
    default: return false;
  }
}

bool is_unsupported(std::int32_t result) noexcept {
  switch (-result) {
    case EBUSY:  // cached pages of a block device are in use, or it is claimed
    case EINVAL:
    case ENODEV:
    case ENOSYS:
    case EOPNOTSUPP:
    case EPERM: return true;
    default: return false;
  }
}

bool may_report_data_loss(std::int32_t result) noexcept {
  return result < 0 && result != -ECANCELED && result != -EFAULT && result != -EINVAL;
}

}  // namespace guestio::disk
