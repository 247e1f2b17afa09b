# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# The beginning of the tests that start machines through machine.py. Source it after common.sh.

# shellcheck source=tools/lib/packages.sh
. "$GUESTIO_ROOT/tools/lib/packages.sh"
# shellcheck source=tools/guest/kernel.sh
. "$GUESTIO_ROOT/tools/guest/kernel.sh"
# shellcheck source=tools/guest/initramfs.sh
. "$GUESTIO_ROOT/tools/guest/initramfs.sh"

# prepare_machine SCRATCH_DIRECTORY INIT: sets $scratch to the directory, without old logs, $kernel
# to the guest's kernel and $initramfs to an initramfs with that first process.
prepare_machine() {
  mkdir -p "$1"
  scratch=$(cd "$1" && pwd)
  rm -f "$scratch"/*.log
  ensure_kernel
  # shellcheck disable=SC2034  # the caller's
  kernel=$GUEST_CACHE/kernel/vmlinuz
  initramfs=$scratch/initramfs.cpio
  make_initramfs "$GUEST_CACHE/kernel" "$initramfs" "$2"
}

# check_file_system IMAGE: logs the output of e2fsck and prints its last line.
check_file_system() {
  e2fsck -fn "$1" >"$scratch/fsck.log" 2>&1 || die "e2fsck found errors, see $scratch/fsck.log"
  note "the file system is consistent: $(tail -n 1 "$scratch/fsck.log" | sed "s|^$1: ||")"
}
