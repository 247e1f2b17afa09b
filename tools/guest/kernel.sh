# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Fetches Debian's cloud kernel for the guest without installing it: apt downloads the package and
# checks its signature, and the package is unpacked into a cache. Source it after
# tools/lib/common.sh and tools/lib/packages.sh.

# The cache of the kernel and its modules, for all guests of this tree.
GUEST_CACHE=$GUESTIO_ROOT/build/guest

# The guest's modules in the order of their dependencies. Those missing in the package are built
# into the kernel.
GUEST_MODULES=(
  crc16 crc32c-intel libcrc32c mbcache jbd2 ext4
  virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk
  virtio_balloon
)

# kernel_package: the current dependency of Debian's linux-image-cloud-amd64.
kernel_package() {
  apt-cache show --no-all-versions linux-image-cloud-amd64 2>/dev/null |
    sed -n 's/^Depends: *\(linux-image-[^ ,]*\).*/\1/p'
}

# unpack_kernel PACKAGE_FILE DIRECTORY: leaves vmlinuz, release and modules/*.ko there.
unpack_kernel() {
  local package=$1 directory=$2 name module number=10
  local everything=$directory/package
  mkdir -p "$everything" "$directory/modules"
  dpkg-deb -x "$package" "$everything" || return 1
  mv "$everything"/boot/vmlinuz-* "$directory/vmlinuz" || return 1
  for name in "${GUEST_MODULES[@]}"; do
    module=$(find "$everything/lib/modules" -name "$name.ko" -print -quit)
    [ -z "$module" ] || mv "$module" "$directory/modules/$number-$name.ko"
    number=$((number + 1))
  done
  basename "$everything"/lib/modules/* >"$directory/release"
  echo "${GUEST_MODULES[*]}" >"$directory/wanted-modules"
  rm -rf "$everything"
}

# fetch_kernel: downloads and unpacks into the cache, atomically.
fetch_kernel() {
  local package fresh=$GUEST_CACHE/kernel.new
  package=$(kernel_package)
  if [ -z "$package" ]; then
    run_apt update
    package=$(kernel_package)
  fi
  [ -n "$package" ] || die "apt knows no linux-image-cloud-amd64 (this needs Debian for amd64)"
  note "downloading $package"
  rm -rf "$fresh"
  mkdir -p "$fresh"
  if ! (cd "$fresh" && apt-get -qq -o APT::Sandbox::User="$(id -un)" -o Acquire::Retries=3 \
    download "$package"); then
    # The package list may be older than the mirror.
    run_apt update
    (cd "$fresh" && apt-get -qq -o APT::Sandbox::User="$(id -un)" download "$package") ||
      die "apt-get could not download $package"
  fi
  unpack_kernel "$fresh"/linux-image-*.deb "$fresh" || die "cannot unpack $package"
  rm -f "$fresh"/linux-image-*.deb
  rm -rf "$GUEST_CACHE/kernel"
  mv "$fresh" "$GUEST_CACHE/kernel"
}

# has_kernel: the cache holds it with the current list of modules.
has_kernel() {
  [ "$(cat "$GUEST_CACHE/kernel/wanted-modules" 2>/dev/null)" = "${GUEST_MODULES[*]}" ]
}

# ensure_kernel: makes sure that $GUEST_CACHE/kernel holds a kernel. Several guests may call it at
# once.
ensure_kernel() {
  ! has_kernel || return 0
  step "Fetching Debian's cloud kernel for the guest"
  mkdir -p "$GUEST_CACHE"
  {
    flock 9
    has_kernel || fetch_kernel
  } 9>"$GUEST_CACHE/lock"
}
