#!/bin/bash
# SPDX-License-Identifier: MIT
# Runs the tests of a build.
#
# Usage: run_tests.sh BUILD_DIRECTORY [CTEST_ARGUMENT...]
#
# It runs one test more than there are processors, since some tests wait. A test is ended after 15
# minutes. On busy machines GUESTIO_TEST_PATIENCE=N multiplies this limit and all waits of the tests.
set -euo pipefail

[ $# -ge 1 ] || { echo "usage: run_tests.sh BUILD_DIRECTORY [CTEST_ARGUMENT...]" >&2 && exit 2; }
exec ctest --test-dir "$1" --output-on-failure --no-tests=error -j$(($(nproc) + 1)) \
  --timeout $((900 * ${GUESTIO_TEST_PATIENCE:-1})) "${@:2}"
