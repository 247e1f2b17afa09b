# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# The image under the guest's disk, and what the host finds in it after the guest is gone: a second
# opinion that went through neither the guest's kernel nor the backend. Source it after
# tools/lib/common.sh. The checks print a line for the table and return 1 when they fail.

IMAGE_MIB=1024
# The file system lies at the start of the disk, raw blocks behind it.
FILE_SYSTEM_MIB=704
# The range of raw blocks whose checksum the guest tells.
RAW_CHECKED_MIB=128

# ensure_image FILE: a sparse image of IMAGE_MIB, made if it is not there.
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

# check_image_files IMAGE LOG SUMS_MD5 COUNT DIRECTORY: all files are there, as the guest wrote them.
check_image_files() {
  local image=$1 log=$2 sums_md5=$3 count=$4 directory=$5
  rm -rf "$directory"
  mkdir -p "$directory"
  # Its own complaints are in the log: an ordinary user cannot give the files to root, which is fine.
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

# check_image_raw IMAGE MD5: the raw blocks are what the guest read last.
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
