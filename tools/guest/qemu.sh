# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# QEMU's command lines. Source it after tools/lib/common.sh.

# shellcheck disable=SC2034  # for the scripts that source this one
QEMU=${GUESTIO_QEMU:-qemu-system-x86_64}

# disk_words SOCKET QUEUES MEMORY: sets `disk_words` to the options that attach the socket's disk.
# Guest memory is a shared file for the backend to map. GUESTIO_PACKED=on offers packed rings (off),
# GUESTIO_QUEUE_SIZE sets the entries of each ring (QEMU's default, 128). After a disconnect QEMU
# reconnects once a second.
# shellcheck disable=SC2034  # the caller's array
disk_words() {
  local socket=$1 queues=$2 memory=$3
  disk_words=(
    -machine "q35,memory-backend=mem" -m "$memory" -smp "$queues"
    -object "memory-backend-memfd,id=mem,size=$memory,share=on"
    -chardev "socket,id=disk0,path=$socket,reconnect=1"
    -device "vhost-user-blk-pci,chardev=disk0,num-queues=$queues,packed=${GUESTIO_PACKED:-off}${GUESTIO_QUEUE_SIZE:+,queue-size=$GUESTIO_QUEUE_SIZE}"
  )
}

# accelerator_words: sets `accelerator_words`. KVM is used only on request: guests may hang even
# where /dev/kvm works.
# shellcheck disable=SC2034  # the caller's array
accelerator_words() {
  case ${GUESTIO_ACCEL:-tcg} in
    tcg) accelerator_words=(-accel tcg -cpu max) ;;
    # Some hosts offer ARCH_CAPABILITIES and then reject QEMU's settings; no guest needs it.
    kvm) accelerator_words=(-accel kvm -cpu "host,-arch-capabilities") ;;
    *) die_usage "GUESTIO_ACCEL is '$GUESTIO_ACCEL'; it can be tcg or kvm" ;;
  esac
}

# print_command WORD...: quoted for a shell, one option per line.
print_command() {
  local word
  printf '    %s' "$1"
  shift
  for word in "$@"; do
    case $word in
      -*) printf ' \\\n      %s' "$word" ;;
      *[!A-Za-z0-9_./:,=@+-]*) printf ' %q' "$word" ;;
      *) printf ' %s' "$word" ;;
    esac
  done
  printf '\n'
}
