#!/bin/bash
# SPDX-License-Identifier: MIT
# Migrates a Linux guest under verified load between two QEMU processes and back, five times, and
# looks at its file system afterwards; half a minute. For ctest, and for `./dev soak migration`.
#
# Usage: migration_test.sh PATH_OF_GUESTIO_BLK SCRATCH_DIRECTORY [ROUNDS]
#
# The logs stay in the scratch directory, the image only when something failed.
set -euo pipefail

# shellcheck source=tools/lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# shellcheck source=tools/lib/packages.sh
. "$GUESTIO_ROOT/tools/lib/packages.sh"
# shellcheck source=tools/guest/kernel.sh
. "$GUESTIO_ROOT/tools/guest/kernel.sh"
# shellcheck source=tools/guest/initramfs.sh
. "$GUESTIO_ROOT/tools/guest/initramfs.sh"

[ $# -ge 2 ] || die_usage "usage: migration_test.sh PATH_OF_GUESTIO_BLK SCRATCH_DIRECTORY [ROUNDS]"
rounds=${3:-5}
require_number ROUNDS "$rounds"
mkdir -p "$2"
scratch=$(cd "$2" && pwd)
image=$scratch/disk.img
rm -f "$image" "$scratch"/*.log
ensure_kernel
make_initramfs "$GUEST_CACHE/kernel" "$scratch/initramfs.cpio" load
truncate -s 256M "$image"
step "Migrating a guest under load, there and back"
python3 "$GUESTIO_ROOT/tools/guest/migration.py" "$1" "$GUEST_CACHE/kernel/vmlinuz" \
  "$scratch/initramfs.cpio" "$image" "$scratch" "$rounds"
e2fsck -fn "$image" >"$scratch/fsck.log" 2>&1 || die "e2fsck found errors, see $scratch/fsck.log"
note "the file system is whole: $(tail -n 1 "$scratch/fsck.log" | sed "s|^$image: ||")"
rm -f "$image"
