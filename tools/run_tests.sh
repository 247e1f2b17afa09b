#!/bin/bash
# SPDX-License-Identifier: MIT
# Runs the tests of a build.
#
# Usage: run_tests.sh BUILD_DIRECTORY [CTEST_ARGUMENT...]
#
# One more at a time than there are processors: some wait for things. A test that does not end is
# ended after 15 minutes; GUESTIO_TEST_PATIENCE=N makes that N times as long, as it does all that
# tests wait for, on machines that have other things to do.
set -euo pipefail

[ $# -ge 1 ] || { echo "usage: run_tests.sh BUILD_DIRECTORY [CTEST_ARGUMENT...]" >&2 && exit 2; }
exec ctest --test-dir "$1" --output-on-failure --no-tests=error -j$(($(nproc) + 1)) \
  --timeout $((900 * ${GUESTIO_TEST_PATIENCE:-1})) "${@:2}"
