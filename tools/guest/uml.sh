# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# User Mode Linux as the guest: Debian's kernel as an ordinary process, without QEMU. Its virtio
# driver is a vhost-user front-end. Source it after boot.sh.

# shellcheck disable=SC2154  # logs: boot.sh

UML_MODULES=/usr/lib/uml/modules
UML_MEMORY=256M

# make_uml_initramfs LOGS: makes $uml_initramfs with the modules of UML's kernel.
make_uml_initramfs() {
  local kernel=$1/uml-kernel module
  rm -rf "$kernel"
  mkdir -p "$kernel/modules"
  module=$(find "$UML_MODULES" -name virtio_blk.ko -print -quit)
  [ -n "$module" ] || die "there is no virtio_blk.ko under $UML_MODULES (package user-mode-linux)"
  cp "$module" "$kernel/modules/"
  uml_initramfs=$1/initramfs.cpio
  make_initramfs "$kernel" "$uml_initramfs"
  rm -rf "$kernel"
}

# start_uml TIMEOUT: on $socket_directory/disk.sock, with $uml_initramfs. Its console is its
# standard output. Guest memory is a file in TMPDIR; a block device is virtio device 2.
start_uml() {
  local -a words=(linux.uml "mem=$UML_MEMORY" "initrd=$uml_initramfs"
    "virtio_uml.device=$socket_directory/disk.sock:2" "con0=null,fd:1" con=null quiet oops=panic
    guestio_queues=1 guestio_queue_interrupts=off "guestio_bytes=$((IMAGE_MIB << 20))" "guestio_fs_mib=$FILE_SYSTEM_MIB"
    "guestio_files=$GUEST_FILES")
  printf '%q ' "${words[@]}" >"$logs/uml.command"
  : >"$logs/console.log"
  TMPDIR=/dev/shm setpriv --pdeathsig TERM timeout --kill-after=5 "$1" "${words[@]}" \
    </dev/null >"$logs/console.log" 2>"$logs/uml.log" &
  # shellcheck disable=SC2034  # the machine's process in boot.sh
  qemu_pid=$!
  follow_console
}

# end_machine: kills all its processes. Each program of the guest is a process of the host; one that
# hangs in its kernel ends by SIGKILL only.
end_machine() {
  local directory
  [ -n "$socket_directory" ] || return 0
  for directory in /proc/[0-9]*; do
    case $(tr '\0' ' ' <"$directory/cmdline" 2>/dev/null) in
      linux.uml\ *"virtio_uml.device=$socket_directory/"*)
        kill -KILL "${directory#/proc/}" 2>/dev/null || true
        ;;
    esac
  done
}

# boot_uml IMAGE LOGS: as boot_guest.
# shellcheck disable=SC2034  # read by the functions of boot.sh
boot_uml() {
  local image=$1 timeout
  local -a results=()
  MACHINE=UML
  GUESTIO_ACCEL='User Mode Linux'
  begin_boot "$2"

  begin "Preparing the initramfs for User Mode Linux"
  make_uml_initramfs "$logs"
  serve_image "$image" 1

  begin "Running the guest: User Mode Linux"
  start_uml "$timeout"
  finish_boot "$image" 1
}
