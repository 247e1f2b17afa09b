# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# What the tests that start a guest's machine by themselves (machine.py) begin with. Source it after
# common.sh.

# shellcheck source=tools/lib/packages.sh
. "$GUESTIO_ROOT/tools/lib/packages.sh"
# shellcheck source=tools/guest/kernel.sh
. "$GUESTIO_ROOT/tools/guest/kernel.sh"
# shellcheck source=tools/guest/initramfs.sh
. "$GUESTIO_ROOT/tools/guest/initramfs.sh"

# prepare_machine SCRATCH_DIRECTORY KIND: the path of the directory is $scratch, without the logs of
# another time, the guest's kernel is $kernel, its initramfs of that kind $initramfs.
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

# check_file_system IMAGE: what e2fsck says of it is in the log, and its last line printed.
check_file_system() {
  e2fsck -fn "$1" >"$scratch/fsck.log" 2>&1 || die "e2fsck found errors, see $scratch/fsck.log"
  note "the file system is whole: $(tail -n 1 "$scratch/fsck.log" | sed "s|^$1: ||")"
}
