#!/bin/bash
# SPDX-License-Identifier: MIT
# Boots User Mode Linux on a fresh image of guestio-blk with the guest's checks; for ctest. Its
# front-end differs from QEMU's: memory tables with trailing space, in-band kicks and calls.
#
# Usage: uml_test.sh PATH_OF_GUESTIO_BLK SCRATCH_DIRECTORY
#
# The logs stay in the scratch directory, the image only after a failure.
set -euo pipefail

# shellcheck source=tools/lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# shellcheck source=tools/lib/packages.sh
. "$GUESTIO_ROOT/tools/lib/packages.sh"
# shellcheck source=tools/guest/boot.sh
. "$GUESTIO_ROOT/tools/guest/boot.sh"
# shellcheck source=tools/guest/uml.sh
. "$GUESTIO_ROOT/tools/guest/uml.sh"

[ $# -eq 2 ] || die_usage "usage: uml_test.sh PATH_OF_GUESTIO_BLK SCRATCH_DIRECTORY"
export GUESTIO_BLK=$1
mkdir -p "$2"
rm -f "$2/disk.img"
boot_uml "$2/disk.img" "$2/logs"
rm -f "$2/disk.img"
