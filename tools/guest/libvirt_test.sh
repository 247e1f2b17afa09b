#!/bin/bash
# SPDX-License-Identifier: MIT
# Runs a libvirt domain on a disk of guestio-blk: guestio-blk is killed, the disk grows, the guest
# is saved and restored. The test has a private libvirtd. For ctest, and for `./dev soak libvirt`.
#
# Usage: libvirt_test.sh PATH_OF_GUESTIO_BLK SCRATCH_DIRECTORY [ROUNDS]
#
# Exits with status 77 where namespaces are not permitted. The logs stay in the scratch directory,
# the image only after a failure.
set -euo pipefail

# shellcheck source=tools/lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# shellcheck source=tools/guest/own_machine.sh
. "$GUESTIO_ROOT/tools/guest/own_machine.sh"

[ $# -ge 2 ] || die_usage "usage: libvirt_test.sh PATH_OF_GUESTIO_BLK SCRATCH_DIRECTORY [ROUNDS]"
rounds=${3:-1}
require_number ROUNDS "$rounds"
if [ "$(id -u)" -ne 0 ] || ! unshare --mount --pid --fork mount -t tmpfs tmpfs /run 2>/dev/null; then
  note "skipped: a private libvirtd needs root with the right to mount in a namespace"
  exit 77
fi
prepare_machine "$2" changes
image=$scratch/disk.img
rm -f "$image"
truncate -s 32M "$image"
step "Running a libvirt domain"
python3 "$GUESTIO_ROOT/tools/guest/libvirt.py" "$1" "$kernel" "$initramfs" \
  "$scratch" "$image" "$rounds"
rm -f "$image"
