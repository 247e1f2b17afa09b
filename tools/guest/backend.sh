# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# The vhost-user-blk backend of a guest: guestio-blk, or qemu-storage-daemon for comparison.
# Source it after tools/lib/common.sh.

# foreign_format IMAGE: prints the format that the image's name says, nothing for a raw image. The
# contents say nothing: a guest can write any signature into a raw image.
foreign_format() {
  case ${1,,} in
    *.qcow2 | *.vmdk | *.vdi | *.vhdx) echo "${1##*.}" | tr '[:upper:]' '[:lower:]' ;;
    *.vhd | *.vpc) echo vpc ;;
  esac
}

# backend_command IMAGE SOCKET QUEUES: sets `backend_words` to the command that serves the image, by
# GUESTIO_BACKEND. guestio-blk is $GUESTIO_BLK with the options of $GUESTIO_BLK_OPTIONS.
# shellcheck disable=SC2034  # the caller's array
backend_command() {
  local image=$1 socket=$2 queues=$3
  local -a options
  case ${GUESTIO_BACKEND:-guestio-blk} in
    guestio-blk)
      read -ra options <<<"${GUESTIO_BLK_OPTIONS:-}"
      backend_words=("$GUESTIO_BLK" --socket-path "$socket" --blk-file "$image"
        --num-queues "$queues" "${options[@]}")
      ;;
    qsd)
      backend_words=(qemu-storage-daemon
        --blockdev "driver=file,node-name=file0,filename=$image,cache.direct=on,aio=io_uring,discard=unmap"
        --export "type=vhost-user-blk,id=export0,node-name=file0,addr.type=unix,addr.path=$socket,writable=on,num-queues=$queues")
      ;;
    *) die_usage "GUESTIO_BACKEND is '$GUESTIO_BACKEND'; it can be guestio-blk or qsd" ;;
  esac
}

# backend_name: its name in messages.
backend_name() {
  if [ "${GUESTIO_BACKEND:-guestio-blk}" = qsd ]; then
    echo qemu-storage-daemon
  else
    echo guestio-blk
  fi
}

# wait_for_socket SOCKET PID: waits for a listener; fails when the process ends first.
wait_for_socket() {
  local socket=$1 pid=$2 attempt
  for ((attempt = 0; attempt < 1200 * ${GUESTIO_TEST_PATIENCE:-1}; attempt++)); do
    # qemu-storage-daemon binds the path before it listens (0x10000: __SO_ACCEPTCON).
    if [ -S "$socket" ] && ! grep " $socket\$" /proc/net/unix | grep -qv ' 00010000 '; then
      return 0
    fi
    kill -0 "$pid" 2>/dev/null || return 1
    sleep 0.05
  done
  return 1
}
