#!/bin/bash
# SPDX-License-Identifier: MIT
# Boots a Linux guest and changes its machine: the disk grows, memory is added. It has several
# queues, discards, and a second, read-only disk. For ctest.
#
# Usage: changes_test.sh PATH_OF_GUESTIO_BLK SCRATCH_DIRECTORY
#
# The logs stay in the scratch directory, the images only after a failure.
set -euo pipefail

# shellcheck source=tools/lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# shellcheck source=tools/guest/own_machine.sh
. "$GUESTIO_ROOT/tools/guest/own_machine.sh"

[ $# -eq 2 ] || die_usage "usage: changes_test.sh PATH_OF_GUESTIO_BLK SCRATCH_DIRECTORY"
prepare_machine "$2" changes
image=$scratch/disk.img
read_only=$scratch/read-only.img
files=$scratch/files
rm -rf "$image" "$read_only" "$files"
truncate -s 128M "$image"
mkdir "$files"
head -c 3000000 /dev/urandom >"$files/a"
(cd "$files" && md5sum a >sums)
truncate -s 16M "$read_only"
mkfs.ext4 -q -F -d "$files" "$read_only"
before=$(md5sum <"$read_only")
step "Changing the machine of a running guest"
python3 "$GUESTIO_ROOT/tools/guest/changes.py" "$1" "$kernel" "$initramfs" \
  "$scratch" "$image" "$read_only"
[ "$(md5sum <"$read_only")" = "$before" ] || die "the read-only image was changed"
rm -rf "$image" "$read_only" "$files"
