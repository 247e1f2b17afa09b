# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# What every script of ours starts with: messages, failure, the root of the tree. Source it; it
# expects `set -euo pipefail`.

# shellcheck disable=SC2034  # for the scripts that source this one
GUESTIO_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# mkfs and e2fsck live in sbin, which an ordinary user's PATH does not have.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# step TEXT: announces what is done next.
step() { printf '==> %s\n' "$*"; }

# note TEXT: one line of detail below a step.
note() { printf '    %s\n' "$*"; }

# die TEXT: says what went wrong and ends the script.
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# die_usage TEXT: the caller asked for something that does not exist.
die_usage() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

# require_number NAME VALUE: a count that was given from outside.
require_number() {
  [[ $2 =~ ^[1-9][0-9]{0,5}$ ]] || die_usage "$1 is '$2'; it has to be a number from 1"
}
