# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# QEMU's command lines. Source it after tools/lib/common.sh.

# shellcheck disable=SC2034  # for the scripts that source this one
QEMU=${GUESTIO_QEMU:-qemu-system-x86_64}

# disk_words SOCKET QUEUES MEMORY: what attaches the disk behind the socket to a guest, into
# `disk_words`. Its memory has to be a shared memory file: the backend maps it. GUESTIO_PACKED (off)
# says whether the guest is offered packed rings, GUESTIO_QUEUE_SIZE how many entries each ring has
# (QEMU's default, 128). QEMU looks once a second for another backend when this one is gone.
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

# accelerator_words: into `accelerator_words`. KVM is used when asked for and never because it is
# there: a /dev/kvm that answers may still hang its guests.
# shellcheck disable=SC2034  # the caller's array
accelerator_words() {
  case ${GUESTIO_ACCEL:-tcg} in
    tcg) accelerator_words=(-accel tcg -cpu max) ;;
    # Some hosts offer ARCH_CAPABILITIES and then refuse what QEMU sets there; no guest needs it.
    kvm) accelerator_words=(-accel kvm -cpu "host,-arch-capabilities") ;;
    *) die_usage "GUESTIO_ACCEL is '$GUESTIO_ACCEL'; it can be tcg or kvm" ;;
  esac
}

# print_command WORD...: as it can be pasted into a shell, an option a line.
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
