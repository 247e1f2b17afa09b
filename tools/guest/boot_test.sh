#!/bin/bash
# SPDX-License-Identifier: MIT
# Boots a Linux guest on a fresh image of guestio-blk, as `./dev run` does; for ctest.
#
# Usage: boot_test.sh PATH_OF_GUESTIO_BLK SCRATCH_DIRECTORY
#
# GUESTIO_QUEUES sets the number of queues and processors (1), GUESTIO_QUEUE_SIZE their size,
# GUESTIO_PACKED=on packed rings: boot.sh. The logs stay in the scratch directory, the image only
# after a failure.
set -euo pipefail

# shellcheck source=tools/lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# shellcheck source=tools/lib/packages.sh
. "$GUESTIO_ROOT/tools/lib/packages.sh"
# shellcheck source=tools/guest/boot.sh
. "$GUESTIO_ROOT/tools/guest/boot.sh"

[ $# -eq 2 ] || die_usage "usage: boot_test.sh PATH_OF_GUESTIO_BLK SCRATCH_DIRECTORY"
export GUESTIO_BLK=$1
mkdir -p "$2"
rm -f "$2/disk.img"
boot_guest "$2/disk.img" "$2/logs"
rm -f "$2/disk.img"
