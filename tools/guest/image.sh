# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# The image of the guest's disk, and its checks on the host after the guest has ended, independent
# of the guest's kernel and the backend. Source it after tools/lib/common.sh. The checks print a
# line for the table and return 1 on failure.

IMAGE_MIB=1024
# The file system is at the start of the disk, raw blocks follow it.
FILE_SYSTEM_MIB=704
# The range of raw blocks with a checksum from the guest.
RAW_CHECKED_MIB=128

# ensure_image FILE: a sparse image of IMAGE_MIB, created if missing.
ensure_image() {
  local image=$1
  [ -e "$image" ] || note "making $image"
  truncate -s "${IMAGE_MIB}M" "$image"
}

# check_image_fsck IMAGE LOG: the file system is consistent.
check_image_fsck() {
  e2fsck -fn "$1" >"$2" 2>&1 || {
    echo "e2fsck found errors, see $2"
    return 1
  }
  tail -n 1 "$2" | sed "s|^$1: ||"
}

# check_image_files IMAGE LOG SUMS_MD5 COUNT DIRECTORY: all files have the guest's contents.
check_image_files() {
  local image=$1 log=$2 sums_md5=$3 count=$4 directory=$5
  rm -rf "$directory"
  mkdir -p "$directory"
  # Its errors are in the log: an ordinary user cannot chown the files to root, which is harmless.
  debugfs -R "rdump /tree /sums $directory" "$image" >"$log" 2>&1 || true
  [ "$(md5sum <"$directory/sums" | cut -d ' ' -f 1)" = "$sums_md5" ] || {
    echo "the list of checksums is not the guest's, see $log"
    return 1
  }
  (cd "$directory/tree" && md5sum -c --quiet ../sums) >>"$log" 2>&1 || {
    echo "files differ, see $log"
    return 1
  }
  [ "$(find "$directory/tree" -type f | wc -l)" = "$count" ] || {
    echo "there are not $count files, see $log"
    return 1
  }
  rm -rf "$directory"
  echo "$count files have the guest's checksums"
}

# check_image_raw IMAGE MD5: the raw blocks are those last read by the guest.
check_image_raw() {
  local md5
  md5=$(dd if="$1" bs=1M skip="$FILE_SYSTEM_MIB" count="$RAW_CHECKED_MIB" status=none |
    md5sum | cut -d ' ' -f 1)
  [ "$md5" = "$2" ] || {
    echo "the raw blocks differ from what the guest read"
    return 1
  }
  echo "$RAW_CHECKED_MIB MiB have the guest's checksum"
}
