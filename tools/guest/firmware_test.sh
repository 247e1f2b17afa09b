#!/bin/bash
# SPDX-License-Identifier: MIT
# Boots SeaBIOS from a disk of guestio-blk with its own virtio driver, and lets it write to the
# disk: a modern, a transitional and a legacy device, and a qcow2 image. For ctest; some seconds.
#
# Usage: firmware_test.sh PATH_OF_GUESTIO_BLK SCRATCH_DIRECTORY
#
# The logs stay in the scratch directory, the image only after a failure.
set -euo pipefail

# shellcheck source=tools/lib/common.sh
. "$(dirname "$0")/../lib/common.sh"

[ $# -eq 2 ] || die_usage "usage: firmware_test.sh PATH_OF_GUESTIO_BLK SCRATCH_DIRECTORY"
mkdir -p "$2"
scratch=$(cd "$2" && pwd)
image=$scratch/disk.img
rm -f "$image"* "$scratch"/*.log
as --32 -o "$scratch/boot_sector.o" "$GUESTIO_ROOT/tools/guest/inside/boot_sector.S"
ld -m elf_i386 -Ttext 0x7c00 --oformat binary -o "$scratch/boot_sector" "$scratch/boot_sector.o"
[ "$(stat -c %s "$scratch/boot_sector")" -eq 512 ] || die "the boot sector has not 512 bytes"
truncate -s 8M "$image"
step "Booting from the disk with QEMU's firmware"
python3 "$GUESTIO_ROOT/tools/guest/firmware.py" "$1" "$scratch/boot_sector" "$image" "$scratch"
rm -f "$image"*
