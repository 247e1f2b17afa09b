# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# The beginning of every script: messages, failure, the root of the tree. Source it; it expects
# `set -euo pipefail`.

# shellcheck disable=SC2034  # for the scripts that source this one
GUESTIO_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# mkfs and e2fsck are in sbin, missing in an ordinary user's PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# step WORD...: announces the next step.
step() { printf '==> %s\n' "$*"; }

# note WORD...: one line of detail below a step.
note() { printf '    %s\n' "$*"; }

# die MESSAGE: prints the error and exits with status 1.
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# die_usage MESSAGE: prints a usage error and exits with status 2.
die_usage() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

# require_number NAME VALUE: checks a count from outside.
require_number() {
  [[ $2 =~ ^[1-9][0-9]{0,5}$ ]] || die_usage "$1 is '$2'; it has to be a number from 1"
}
