# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Makes the guest's initramfs from the Debian packages of this machine: busybox, the tools for ext4
# and discards with their libraries, the kernel's modules, and the scripts of inside/. Source it
# after tools/lib/common.sh.

GUEST_PROGRAMS=(mkfs.ext4 e2fsck blkdiscard)

# libraries_of PROGRAM: its shared libraries and loader; none for a static one.
libraries_of() {
  { LC_ALL=C ldd "$1" 2>/dev/null || true; } |
    awk '$2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }'
}

# add_program NAME TREE FOLDER: into TREE/FOLDER, with its libraries at their paths on this machine.
add_program() {
  local name=$1 tree=$2 folder=$3 path library
  path=$(command -v "$name") || die "there is no program '$name' on this machine"
  cp -L "$path" "$tree/$folder/$name"
  libraries_of "$path" | while IFS= read -r library; do
    (cd "$tree" && cp -L --parents --update "$library" .)
  done
}

# make_initramfs KERNEL_DIRECTORY OUTPUT [INIT]: INIT of inside/ is the first process. The archive
# is not compressed: in an emulated guest unpacking costs more than loading.
make_initramfs() {
  local kernel=$1 output=$2 init=${3:-init} name
  local tree=$output.tree
  rm -rf "$tree"
  mkdir -p "$tree"/{bin,programs,dev,proc,sys,work,mnt,modules}
  add_program busybox "$tree" bin
  for name in "${GUEST_PROGRAMS[@]}"; do add_program "$name" "$tree" programs; done
  cp "$kernel"/modules/*.ko "$tree/modules/"
  cp "$GUESTIO_ROOT/tools/guest/inside/$init" "$tree/init"
  cp "$GUESTIO_ROOT"/tools/guest/inside/{setup,checks} "$tree/"
  chmod 755 "$tree/init"
  (cd "$tree" && find . | LC_ALL=C sort | cpio --quiet -o -H newc --owner 0:0) >"$output"
  rm -rf "$tree"
}
