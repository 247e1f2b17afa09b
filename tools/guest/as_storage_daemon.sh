#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# guestio-blk with qemu-storage-daemon's command line, as used by QEMU's own vhost-user-blk tests.
# In a build of QEMU's sources:
#   QTEST_QEMU_STORAGE_DAEMON_BINARY=.../tools/guest/as_storage_daemon.sh \
#   QTEST_QEMU_BINARY=./qemu-system-x86_64 QTEST_QEMU_IMG=./qemu-img tests/qtest/qos-test -p PATH
# for each PATH of `qos-test -l` with vhost-user-blk in it.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
program=${GUESTIO_BLK:-$here/../../build/release/bin/guestio-blk}

# value_of KEY OPTIONS: `value_of key a=1,key=b,c=2` prints b
value_of() { sed -n "s/\(^\|.*,\)$1=\([^,]*\).*/\2/p" <<< "$2"; }

declare -A image
arguments=()
while (($# > 0)); do
  case $1 in
    --blockdev) image[$(value_of node-name "$2")]=$(value_of filename "$2") ;;
    --export)
      node=$(value_of node-name "$2")
      arguments+=(--disk "name=$node,fd=$(value_of addr.str "$2"),blk-file=${image[$node]},num-queues=$(value_of num-queues "$2")")
      ;;
    *)
      echo "as_storage_daemon.sh: unknown option $1" >&2
      exit 2
      ;;
  esac
  shift 2
done
exec "$program" "${arguments[@]}"
