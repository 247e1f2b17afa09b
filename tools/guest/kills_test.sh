#!/bin/bash
# SPDX-License-Identifier: MIT
# Kills guestio-blk under a Linux guest with verified load, ten times at random moments for split and
# for packed rings, then replaces it in place (--takeover) half as often, and looks at the file systems
# afterwards. For ctest, and for `./dev soak kills`.
#
# Usage: kills_test.sh PATH_OF_GUESTIO_BLK SCRATCH_DIRECTORY [ROUNDS]
#
# The logs stay in the scratch directory, the images only when something failed.
set -euo pipefail

# shellcheck source=tools/lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# shellcheck source=tools/lib/packages.sh
. "$GUESTIO_ROOT/tools/lib/packages.sh"
# shellcheck source=tools/guest/kernel.sh
. "$GUESTIO_ROOT/tools/guest/kernel.sh"
# shellcheck source=tools/guest/initramfs.sh
. "$GUESTIO_ROOT/tools/guest/initramfs.sh"

[ $# -ge 2 ] || die_usage "usage: kills_test.sh PATH_OF_GUESTIO_BLK SCRATCH_DIRECTORY [ROUNDS]"
rounds=${3:-10}
require_number ROUNDS "$rounds"
mkdir -p "$2"
scratch=$(cd "$2" && pwd)
images=("$scratch/split.img" "$scratch/packed.img")
rm -f "${images[@]}" "$scratch"/*.log
ensure_kernel
make_initramfs "$GUEST_CACHE/kernel" "$scratch/initramfs.cpio" load
truncate -s 256M "${images[@]}"
step "Killing the backends under a guest with load"
python3 "$GUESTIO_ROOT/tools/guest/kills.py" "$1" "$GUEST_CACHE/kernel/vmlinuz" \
  "$scratch/initramfs.cpio" "$scratch" "$rounds" "${images[@]}"
for image in "${images[@]}"; do
  e2fsck -fn "$image" >"$scratch/fsck.log" 2>&1 || die "e2fsck found errors, see $scratch/fsck.log"
done
note "the file systems are whole"
rm -f "${images[@]}"
