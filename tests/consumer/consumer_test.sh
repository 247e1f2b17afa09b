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
set -euo pipefail

# shellcheck source=tools/lib/common.sh
. "$(dirname "$0")/../../tools/lib/common.sh"

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

# Built from a copy outside the tree, so that no header of the tree is found.
build_by_cmake() {
  local prefix=$1 scratch=$2
  rm -rf "$scratch"
  mkdir -p "$scratch"
  cp "$outside"/* "$scratch"
  cmake -S "$scratch" -B "$scratch/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_PREFIX_PATH="$prefix" --log-level=WARNING
  cmake --build "$scratch/build" >"$scratch/build.log" || {
    cat "$scratch/build.log" >&2
    die "the consumer does not build"
  }
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

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
  install) install_build "$@" ;;
  cmake) build_by_cmake "$@" ;;
  pkg-config) build_by_pkg_config "$@" ;;
  description) ask_described_program "$@" ;;
  *) die_usage "see the head of $0" ;;
esac
