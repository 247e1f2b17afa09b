#!/bin/bash
# SPDX-License-Identifier: MIT
# Uses guestio from its installation, as a user does. For ctest.
#
# Usage: consumer_test.sh install BUILD PREFIX     installs a finished build
#        consumer_test.sh cmake PREFIX SCRATCH     builds and runs a program by find_package, and
#                                                  compiles each public header by itself
#        consumer_test.sh pkg-config PREFIX        by pkg-config, with g++ and clang++
#        consumer_test.sh description PREFIX       runs the guestio-blk of the description for
#                                                  management layers
#        consumer_test.sh components BUILD PREFIX  installs the programs without and with a module
#        consumer_test.sh backend PREFIX SCRATCH   builds the example of a disk backend, loads it
#                                                  into guestio-blk, and verifies the disk
set -euo pipefail

# shellcheck source=tools/lib/common.sh
. "$(dirname "$0")/../../tools/lib/common.sh"
# shellcheck source=tools/guest/backend.sh
. "$GUESTIO_ROOT/tools/guest/backend.sh"

outside=$GUESTIO_ROOT/tests/consumer/outside

install_build() {
  local build=$1 prefix=$2
  rm -rf "$prefix"
  cmake --install "$build" --prefix "$prefix" >/dev/null
  # A path into the tree would work here and fail on another machine.
  if grep -rlF "$GUESTIO_ROOT/guestio" "$prefix/lib/cmake" "$prefix/lib/pkgconfig"; then
    die "these installed files name the source tree"
  fi
}

# build_copy SOURCE PREFIX SCRATCH [ARGUMENT...]: built from a copy outside the tree, so that no
# header of the tree is found. The arguments are cmake's.
build_copy() {
  local source=$1 prefix=$2 scratch=$3
  shift 3
  rm -rf "$scratch"
  mkdir -p "$scratch"
  cp "$source"/* "$scratch"
  cmake -S "$scratch" -B "$scratch/build" -G Ninja -DCMAKE_PREFIX_PATH="$prefix" \
    --log-level=WARNING "$@"
  cmake --build "$scratch/build" >"$scratch/build.log" || {
    cat "$scratch/build.log" >&2
    die "$source does not build"
  }
}

build_by_cmake() {
  local prefix=$1 scratch=$2
  build_copy "$outside" "$prefix" "$scratch" -DCMAKE_BUILD_TYPE=Release
  "$scratch/build/consumer"
}

# Drops unused sections: the table of recoverable instructions must survive.
build_by_pkg_config() {
  local prefix=$1 compiler words
  local -a flags
  words=$(PKG_CONFIG_PATH=$prefix/lib/pkgconfig pkg-config --cflags --libs guestio)
  read -ra flags <<<"$words"
  for compiler in g++ clang++-19; do
    "$compiler" -std=c++23 -O2 -Wall -Wextra -Wconversion -Werror -ffunction-sections -fdata-sections \
      -Wl,--gc-sections -o "$prefix/consumer-$compiler" "$outside/main.cc" "${flags[@]}"
    "$prefix/consumer-$compiler"
  done
}

ask_described_program() {
  local prefix=$1 program
  program=$(python3 - "$prefix/share/qemu/vhost-user/50-guestio-blk.json" <<'EOF'
import json, sys
description = json.load(open(sys.argv[1]))
assert description.keys() == {"description", "type", "binary"}, description
assert description["type"] == "block", description
print(description["binary"])
EOF
  )
  [ "$program" = "$prefix/bin/guestio-blk" ] || die "the description names $program"
  "$program" --print-capabilities | grep -q '"type": "block"'
}

# expect_refusal PREFIX IMAGE WORDS: guestio-blk does not serve the image, and says why.
expect_refusal() {
  local prefix=$1 image=$2 words=$3 text status=0
  text=$("$prefix/bin/guestio-blk" --socket-path "$prefix/socket" --blk-file "$image" 2>&1) ||
    status=$?
  [ "$status" -ne 0 ] || die "$image is served"
  [[ $text == *"$words"* ]] || die "no '$words' in: $text"
}

# The programs know every backend and name its package; the package is all that they need.
install_by_component() {
  local build=$1 prefix=$2
  local image="nbd+unix:///?socket=$prefix/no-server"
  rm -rf "$prefix"
  cmake --install "$build" --prefix "$prefix" --component guestio >/dev/null
  [ ! -e "$prefix/include" ] || die "the programs come with headers"
  expect_refusal "$prefix" "$image" "install the package guestio-disk-nbd"
  cmake --install "$build" --prefix "$prefix" --component guestio-disk-nbd >/dev/null
  expect_refusal "$prefix" "$image" "no-server"
}

# verify_disk PREFIX IMAGE SOCKET: serves the image until guestio-load has verified it.
verify_disk() {
  local prefix=$1 image=$2 socket=$3 status=0 pid
  "$prefix/bin/guestio-blk" --socket-path "$socket" --blk-file "$image" &
  pid=$!
  # In a subshell: guestio-blk is ended and reaped whatever fails.
  (
    wait_for_socket "$socket" "$pid" || die "guestio-blk does not serve $image"
    "$prefix/bin/guestio-load" verify --socket-path "$socket" --ops 2000
  ) || status=$?
  kill "$pid" 2>/dev/null || true
  wait "$pid" || die "guestio-blk ended with status $?"
  return "$status"
}

# A module of another version has no factory that could be called.
install_old_module() {
  local prefix=$1
  cc -shared -x c -o "$prefix/lib/guestio/libguestio-disk-old.so" - <<<'
    struct { unsigned abi; const char *version; void *factory; } guestio_disk_module = {1, "0.0.1"};'
}

run_third_party_backend() {
  local prefix=$1 scratch=$2
  build_copy "$GUESTIO_ROOT/examples/third-party-backend" "$prefix" "$scratch" \
    -DCMAKE_BUILD_TYPE=Debug -DCMAKE_INSTALL_PREFIX="$prefix" \
    -DCMAKE_CXX_FLAGS="-Wall -Wextra -Wconversion -Werror"
  "$scratch/build/join_test" --gtest_brief=1
  cmake --install "$scratch/build" >/dev/null
  truncate -s 3M "$scratch/a"
  truncate -s 512 "$scratch/b"
  truncate -s 2M "$scratch/c"
  verify_disk "$prefix" "join:$scratch/a:$scratch/b:$scratch/c" "$scratch/socket"
  expect_refusal "$prefix" "join:$scratch/a:$scratch/none" "$scratch/none: "
  install_old_module "$prefix"
  expect_refusal "$prefix" old:x "install the same version of both"
  # The load reached the last piece.
  ! cmp -s "$scratch/c" <(head -c 2M /dev/zero) || die "nothing was written to the last piece"
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
  install) install_build "$@" ;;
  cmake) build_by_cmake "$@" ;;
  pkg-config) build_by_pkg_config "$@" ;;
  description) ask_described_program "$@" ;;
  components) install_by_component "$@" ;;
  backend) run_third_party_backend "$@" ;;
  *) die_usage "see the head of $0" ;;
esac
