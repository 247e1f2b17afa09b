// SPDX-License-Identifier: MIT
#include "guestio/disk/nbd/nbd_factory.h"
#include "guestio/disk/registry.h"

namespace guestio::disk {

GUESTIO_DISK_MODULE(NbdFactory);

}  // namespace guestio::disk
