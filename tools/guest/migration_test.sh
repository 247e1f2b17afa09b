#!/bin/bash
# SPDX-License-Identifier: MIT
# Migrates a Linux guest under verified load between two QEMU processes and back, three times, and
# checks its file system; half a minute. For ctest, and for `./dev soak migration`.
#
# Usage: migration_test.sh PATH_OF_GUESTIO_BLK SCRATCH_DIRECTORY [ROUNDS]
#
# The logs stay in the scratch directory, the image only after a failure.
set -euo pipefail

# shellcheck source=tools/lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# shellcheck source=tools/guest/own_machine.sh
. "$GUESTIO_ROOT/tools/guest/own_machine.sh"

[ $# -ge 2 ] || die_usage "usage: migration_test.sh PATH_OF_GUESTIO_BLK SCRATCH_DIRECTORY [ROUNDS]"
rounds=${3:-3}
require_number ROUNDS "$rounds"
prepare_machine "$2" load
image=$scratch/disk.img
rm -f "$image"
truncate -s 256M "$image"
step "Migrating a guest under load, there and back"
python3 "$GUESTIO_ROOT/tools/guest/migration.py" "$1" "$kernel" "$initramfs" \
  "$image" "$scratch" "$rounds"
check_file_system "$image"
rm -f "$image"
