#!/bin/bash
# SPDX-License-Identifier: MIT
# Shows that the guest test cannot pass by accident: each failure ends it with a status other than 0
# and the right reason. For ctest; about twenty seconds.
#
# Usage: boot_failure_test.sh SCRATCH_DIRECTORY
#
# The backend is qemu-storage-daemon, so that this test says nothing about ours.
set -euo pipefail

# shellcheck source=tools/lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
# shellcheck source=tools/guest/image.sh
. "$GUESTIO_ROOT/tools/guest/image.sh"

[ $# -eq 1 ] || die_usage "usage: boot_failure_test.sh SCRATCH_DIRECTORY"
mkdir -p "$1"
scratch=$(cd "$1" && pwd)
failures=0
unset GUESTIO_BACKEND GUESTIO_ACCEL GUESTIO_QUEUES GUESTIO_GUEST_TIMEOUT GUESTIO_BLK_OPTIONS \
  GUESTIO_PACKED GUESTIO_QUEUE_SIZE

# expect_failure NAME REASON COMMAND...: the command fails and prints the reason.
expect_failure() {
  local name=$1 text=$2 status=0
  shift 2
  "$@" >"$scratch/output.log" 2>&1 || status=$?
  if [ "$status" -ne 0 ] && grep -qF -- "$text" "$scratch/output.log"; then
    note "ok      $name"
  else
    note "FAILED  $name: status $status, expected a failure with '$text':"
    tail -n 20 "$scratch/output.log"
    failures=$((failures + 1))
  fi
}

# program NAME: makes standard input an executable in the scratch directory.
program() {
  { echo '#!/bin/bash' && cat; } >"$scratch/$1"
  chmod +x "$scratch/$1"
}

boot() { "$GUESTIO_ROOT/tools/guest/boot_test.sh" "$@" "$scratch/boot"; }

# A backend's arguments: --socket-path SOCKET --blk-file IMAGE --num-queues QUEUES.
# It ends after the first line of the guest.
program short_lived <<'EOF'
qemu-storage-daemon \
  --blockdev driver=file,node-name=file0,filename="$4" \
  --export type=vhost-user-blk,id=export0,node-name=file0,addr.type=unix,addr.path="$2",writable=on &
trap 'kill $!' EXIT
until grep -q '@guestio' "$(dirname "$0")/boot/logs/console.log" 2>/dev/null; do sleep 0.1; done
exit 124
EOF
program forgetful <<'EOF'
exec qemu-storage-daemon \
  --blockdev driver=null-co,node-name=file0,size=1073741824,read-zeroes=on \
  --export type=vhost-user-blk,id=export0,node-name=file0,addr.type=unix,addr.path="$2",writable=on
EOF
program qemu_without_init <<'EOF'
words=("$@")
words[-1]+=' rdinit=/none'
exec qemu-system-x86_64 "${words[@]}"
EOF
program qemu_that_ends <<'EOF'
echo '@guestio pass disk'
exit 0
EOF

boot_failures() {
  local short='did not open its socket'
  expect_failure 'no such backend' 'there is no program' boot "$scratch/none"
  expect_failure 'a backend that ends at once' "$short" boot /bin/false
  expect_failure 'a backend that ends in the middle' 'ended with status 124 while the guest' \
    boot "$scratch/short_lived"
  expect_failure 'a backend that forgets what is written' 'guest check: raw' boot "$scratch/forgetful"
  export GUESTIO_BACKEND=qsd
  expect_failure 'too many queues given' "it has to be a number" env GUESTIO_QUEUES=-1 \
    "$GUESTIO_ROOT/tools/guest/boot_test.sh" none "$scratch/boot"
  GUESTIO_TEST_PATIENCE=1 GUESTIO_GUEST_TIMEOUT=2 expect_failure 'a guest that takes too long' 'was not done after 2 s' \
    boot none
  GUESTIO_QEMU=$scratch/qemu_without_init expect_failure 'a guest that panics' \
    "stopped without a result of its check 'disk'" boot none
  GUESTIO_QEMU=$scratch/qemu_that_ends expect_failure 'a guest that says nothing' \
    "stopped without a result of its check 'disk'" boot none
  GUESTIO_QEMU=/bin/false expect_failure 'a QEMU that fails' 'QEMU ended with status 1' boot none
}

# An image as left by the guest, made without a guest.
make_image() {
  local files=$scratch/made
  rm -rf "$files"
  mkdir -p "$files/tree"
  head -c 300000 /dev/urandom >"$files/tree/a"
  head -c 5000 /dev/urandom >"$files/tree/b"
  (cd "$files/tree" && md5sum a b) >"$files/sums"
  sums_md5=$(md5sum <"$files/sums" | cut -d ' ' -f 1)
  rm -f "$scratch/disk.img"
  ensure_image "$scratch/disk.img" >/dev/null
  mkfs.ext4 -q -F -d "$files" "$scratch/disk.img" "${FILE_SYSTEM_MIB}M"
  raw_md5=$(head -c "${RAW_CHECKED_MIB}M" /dev/zero | md5sum | cut -d ' ' -f 1)
}

# overwrite OFFSET STRING: in the image.
overwrite() {
  printf '%s' "$2" | dd of="$scratch/disk.img" bs=1 seek="$1" conv=notrunc status=none
}

image_failures() {
  local image=$scratch/disk.img offset
  local -a files_check=(check_image_files "$image" "$scratch/files.log")
  make_image
  check_image_fsck "$image" "$scratch/fsck.log" >/dev/null || die "a good file system is refused"
  "${files_check[@]}" "$sums_md5" 2 "$scratch/out" >/dev/null || die "good files are refused"
  check_image_raw "$image" "$raw_md5" >/dev/null || die "good raw blocks are refused"

  expect_failure 'one file too few' 'there are not 3 files' \
    "${files_check[@]}" "$sums_md5" 3 "$scratch/out"
  expect_failure 'another list of checksums' 'is not the guest' \
    "${files_check[@]}" "$raw_md5" 2 "$scratch/out"
  overwrite $(((FILE_SYSTEM_MIB + RAW_CHECKED_MIB) * 1048576 - 1)) x
  expect_failure 'a raw byte changed' 'the raw blocks differ' check_image_raw "$image" "$raw_md5"
  offset=$(debugfs -R 'blocks /tree/a' "$image" 2>/dev/null | cut -d ' ' -f 3)
  overwrite $((offset * 4096 + 17)) 'changed'
  expect_failure 'a byte of a file changed' 'files differ' \
    "${files_check[@]}" "$sums_md5" 2 "$scratch/out"
  overwrite 1200 'changed'
  expect_failure 'a broken superblock' 'e2fsck found errors' \
    check_image_fsck "$image" "$scratch/fsck.log"
}

step "The guest test fails when it should"
boot_failures
image_failures
rm -f "$scratch/disk.img" "$scratch/boot/disk.img"
[ "$failures" -eq 0 ] || die "$failures failures were taken for something else"
