#!/bin/bash
# SPDX-License-Identifier: MIT
# Checks which rooms `./dev test quick` takes, and what it says to the others. For ctest; builds
# nothing.
set -euo pipefail

# shellcheck source=tools/lib/common.sh
. "$(dirname "$0")/common.sh"
# shellcheck source=tools/lib/quick.sh
. "$GUESTIO_ROOT/tools/lib/quick.sh"

failures=0

# expect NAME EXPECTED ACTUAL
expect() {
  if [ "$2" = "$3" ]; then
    note "ok      $1"
  else
    note "FAILED  $1: '$3', expected '$2'"
    failures=$((failures + 1))
  fi
}

# refusal WORD...: the exit status of `./dev test quick WORD...` and the first line of its
# complaint.
refusal() {
  local text status=0
  text=$("$GUESTIO_ROOT/dev" test quick "$@" 2>&1) || status=$?
  printf '%s %s' "$status" "${text%%$'\n'*}"
}

step "Rooms of ./dev test quick"
all=$(rooms_with_tests)
while IFS= read -r room; do
  expect "$room is a room" "$room" "$(rooms_named "$room" | head -n 1)"
done <<<"$all"
for room in mem disk/file vhost/ring apps/guestio-blk; do
  expect "$room is one of all" "$room" "$(grep -xF "$room" <<<"$all")"
done
expect "a path is a room" mem "$(rooms_named ./guestio/mem/)"
expect "a folder of rooms is all of them" "$(grep '^vhost/' <<<"$all")" "$(rooms_named vhost)"
expect "no room" "" "$(rooms_named)"
expect "a misspelled room" "2 error: no room 'vhost/rign' has tests; did you mean vhost/ring?" \
  "$(refusal vhost/rign)"
expect "a misspelled folder of rooms" "2 error: no room 'vhosts' has tests; did you mean vhost?" \
  "$(refusal vhosts)"
expect "the last folder of a room" "2 error: no room 'ring' has tests; did you mean vhost/ring?" \
  "$(refusal ring)"
expect "an unknown room beside a known one" "2 error: no room 'kitchen' has tests" \
  "$(refusal mem kitchen)"
expect "an empty word" "2 error: no room '' has tests" "$(refusal '')"
expect "an option" "2 error: no room '-R' has tests" "$(refusal -R)"
[ "$failures" -eq 0 ] || die "$failures expectations failed"
