#!/bin/bash
# SPDX-License-Identifier: MIT
# As migration_test.sh, on an RBD image: the two guestio-blk share no file system. For `./dev soak
# disks`, whose cluster has the image.
#
# Usage: migration_rbd_test.sh PATH_OF_GUESTIO_BLK SCRATCH_DIRECTORY URI FILE ROUNDS
#
# FILE is the copy of the image whose file system is checked; it stays after a failure.
set -euo pipefail

# shellcheck source=tools/lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# shellcheck source=tools/guest/own_machine.sh
. "$GUESTIO_ROOT/tools/guest/own_machine.sh"

[ $# -eq 5 ] ||
  die_usage "usage: migration_rbd_test.sh PATH_OF_GUESTIO_BLK SCRATCH_DIRECTORY URI FILE ROUNDS"
require_number ROUNDS "$5"
prepare_machine "$2" load
step "Migrating a guest under load, there and back"
python3 "$GUESTIO_ROOT/tools/guest/migration.py" "$1" "$kernel" "$initramfs" "$3" "$scratch" "$5"
name=${3#rbd:}
rbd --conf "${3##*conf=}" export --no-progress "${name%%\?*}" "$4"
check_file_system "$4"
rm -f "$4"
