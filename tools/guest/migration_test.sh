#!/bin/bash
# SPDX-License-Identifier: MIT
# Migrates a Linux guest under verified load between two QEMU processes and back, five times, and
# looks at its file system afterwards; half a minute. `./dev soak migration` runs it.
#
# It is no part of `./dev test`: it has been seen to fail once on a busy host, where the guest's
# kernel found its own structures broken. Whose fault that was is not known yet. QEMU's emulation is
# one candidate: its processors may store to a page between the moment that the migration has
# cleared the page's mark and copied it, when the host takes the thread off its processor there.
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
mkdir -p "$2"
scratch=$(cd "$2" && pwd)
image=$scratch/disk.img
ensure_kernel
make_initramfs "$GUEST_CACHE/kernel" "$scratch/initramfs.cpio" migration
rm -f "$image"
truncate -s 256M "$image"
step "Migrating a guest under load, there and back"
python3 "$GUESTIO_ROOT/tools/guest/migration.py" "$1" "$GUEST_CACHE/kernel/vmlinuz" \
  "$scratch/initramfs.cpio" "$image" "$scratch" "${3:-5}"
e2fsck -fn "$image" >"$scratch/fsck.log" 2>&1 || die "e2fsck found errors, see $scratch/fsck.log"
note "the file system is whole: $(tail -n 1 "$scratch/fsck.log" | sed "s|^$image: ||")"
rm -f "$image"
