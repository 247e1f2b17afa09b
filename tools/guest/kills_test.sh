#!/bin/bash
# SPDX-License-Identifier: MIT
# Kills guestio-blk under a Linux guest with verified load at random moments, six times for split
# and for packed rings, then replaces it in place (--takeover) half as often, and checks the file
# systems. For ctest, and for `./dev soak kills`.
#
# Usage: kills_test.sh PATH_OF_GUESTIO_BLK SCRATCH_DIRECTORY [ROUNDS]
#
# The logs stay in the scratch directory, the images only after a failure.
set -euo pipefail

# shellcheck source=tools/lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# shellcheck source=tools/guest/own_machine.sh
. "$GUESTIO_ROOT/tools/guest/own_machine.sh"

[ $# -ge 2 ] || die_usage "usage: kills_test.sh PATH_OF_GUESTIO_BLK SCRATCH_DIRECTORY [ROUNDS]"
rounds=${3:-6}
require_number ROUNDS "$rounds"
prepare_machine "$2" load
images=("$scratch/split.img" "$scratch/packed.img")
rm -f "${images[@]}"
truncate -s 256M "${images[@]}"
step "Killing the backends under a guest with load"
python3 "$GUESTIO_ROOT/tools/guest/kills.py" "$1" "$kernel" "$initramfs" \
  "$scratch" "$rounds" "${images[@]}"
for image in "${images[@]}"; do check_file_system "$image"; done
rm -f "${images[@]}"
