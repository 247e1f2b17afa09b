#!/bin/bash
# SPDX-License-Identifier: MIT
# Builds the rooms base, mem, task and buf for aarch64 and runs their unit tests under the emulator;
# for ctest. What is built stays in BUILD_DIRECTORY for the next time.
#
# Usage: run.sh BUILD_DIRECTORY [CTEST_ARGUMENT...]
set -euo pipefail

# shellcheck source=tools/lib/common.sh
. "$(dirname "$0")/../../tools/lib/common.sh"
# shellcheck source=tools/lib/build.sh
. "$GUESTIO_ROOT/tools/lib/build.sh"

[ $# -ge 1 ] || die_usage "usage: run.sh BUILD_DIRECTORY [CTEST_ARGUMENT...]"
build=$1
shift
use_ccache
cmake -S "$GUESTIO_ROOT/tests/aarch64/project" -B "$build" -G Ninja --log-level=WARNING -Wno-dev \
  -DCMAKE_TOOLCHAIN_FILE="$GUESTIO_ROOT/tests/aarch64/project/toolchain.cmake" \
  -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O1 \
  -DCMAKE_CXX_COMPILER_LAUNCHER="$GUESTIO_CCACHE"
cmake --build "$build" >"$build/build.log" || {
  cat "$build/build.log" >&2
  die "the rooms do not build for aarch64"
}
exec "$(dirname "$0")/../../tools/run_tests.sh" "$build" "$@"
