#!/bin/bash
# SPDX-License-Identifier: MIT
# Runs a guest of libvirt's on a disk that guestio-blk serves: guestio-blk is killed, the disk grows,
# the guest is saved and restored. libvirtd is one of the test's own. For ctest, and for
# `./dev soak libvirt`.
#
# Usage: libvirt_test.sh PATH_OF_GUESTIO_BLK SCRATCH_DIRECTORY [ROUNDS]
#
# Ends with status 77 where this user may not make namespaces. The logs stay in the scratch
# directory, the image only when something failed.
set -euo pipefail

# shellcheck source=tools/lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# shellcheck source=tools/guest/own_machine.sh
. "$GUESTIO_ROOT/tools/guest/own_machine.sh"

[ $# -ge 2 ] || die_usage "usage: libvirt_test.sh PATH_OF_GUESTIO_BLK SCRATCH_DIRECTORY [ROUNDS]"
rounds=${3:-1}
require_number ROUNDS "$rounds"
if [ "$(id -u)" -ne 0 ] || ! unshare --mount --pid --fork mount -t tmpfs tmpfs /run 2>/dev/null; then
  note "skipped: libvirtd of one's own needs root who may mount in a namespace"
  exit 77
fi
prepare_machine "$2" changes
image=$scratch/disk.img
rm -f "$image"
truncate -s 32M "$image"
step "Running a guest of libvirt's"
python3 "$GUESTIO_ROOT/tools/guest/libvirt.py" "$1" "$kernel" "$initramfs" \
  "$scratch" "$image" "$rounds"
rm -f "$image"
