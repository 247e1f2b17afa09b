# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Boots one guest: serves an image, runs a Linux guest on it with its checks, and checks the image
# afterwards. Source it after tools/lib/common.sh and tools/lib/packages.sh; it owns the EXIT, INT
# and TERM traps.
#
#   boot_guest IMAGE LOGS    returns on success only; a failure ends the script with status 1 and a
#                            line that names the failed step.
#
# Environment: GUESTIO_BLK (the program), GUESTIO_BACKEND, GUESTIO_BLK_OPTIONS, GUESTIO_QUEUES (1),
# GUESTIO_PACKED (off; on requires packed rings), GUESTIO_QUEUE_SIZE (QEMU's default; a size is
# required of the rings), GUESTIO_ACCEL (tcg), GUESTIO_QEMU, GUESTIO_GUEST_TIMEOUT (seconds),
# GUESTIO_GUEST_FILES (600).
#
# The guest reports in lines on its console that begin with @guestio: `step DESCRIPTION`, `fact NAME
# VALUE`, `pass CHECK RESULT`, `fail CHECK REASON`, `done`. A check without its `pass` line has
# failed.

# shellcheck source=tools/guest/kernel.sh
. "$GUESTIO_ROOT/tools/guest/kernel.sh"
# shellcheck source=tools/guest/initramfs.sh
. "$GUESTIO_ROOT/tools/guest/initramfs.sh"
# shellcheck source=tools/guest/backend.sh
. "$GUESTIO_ROOT/tools/guest/backend.sh"
# shellcheck source=tools/guest/qemu.sh
. "$GUESTIO_ROOT/tools/guest/qemu.sh"
# shellcheck source=tools/guest/image.sh
. "$GUESTIO_ROOT/tools/guest/image.sh"

GUEST_MEMORY=512M
GUEST_FILES=${GUESTIO_GUEST_FILES:-600}
# The checks of the guest, in their order.
GUEST_CHECKS=(disk raw parallel discard throughput format tree remount churn fsck errors)

# The machine of the guest, in messages and in the name of its log.
MACHINE=QEMU
backend_pid=
qemu_pid=
follower_pid=
socket_directory=
logs=
current_step=

# begin STEP: the step to name in a failure.
begin() {
  current_step=$1
  step "$1"
}

# fail_step REASON: ends the script with the step, the reason and the logs.
fail_step() {
  {
    printf '\nFAILED in step "%s": %s\n' "$current_step" "$1"
    printf 'Logs are in %s:\n' "$logs"
    find "$logs" -maxdepth 1 -name '*.log' -size +0 -printf '  %f (%s bytes)\n' | sort
  } >&2
  exit 1
}

# stop_process PID: TERM, and KILL after a minute.
stop_process() {
  local pid=$1 attempt
  kill "$pid" 2>/dev/null || return 0
  for ((attempt = 0; attempt < 1200 * ${GUESTIO_TEST_PATIENCE:-1}; attempt++)); do
    kill -0 "$pid" 2>/dev/null || return 0
    sleep 0.05
  done
  kill -KILL "$pid" 2>/dev/null || true
}

clean_up() {
  trap - INT TERM
  [ -z "$qemu_pid" ] || stop_process "$qemu_pid"
  ! declare -F end_machine >/dev/null || end_machine
  [ -z "$backend_pid" ] || stop_process "$backend_pid"
  [ -z "$follower_pid" ] || kill "$follower_pid" 2>/dev/null || true
  [ -z "$socket_directory" ] || rm -rf "$socket_directory"
}

set_traps() {
  trap clean_up EXIT
  trap 'echo "interrupted" >&2; exit 130' INT
  trap 'echo "terminated" >&2; exit 143' TERM
}

# make_socket_directory: with a short path, since a socket's path has at most 107 bytes.
make_socket_directory() { socket_directory=$(mktemp -d /tmp/guestio.XXXXXX); }

# start_backend IMAGE QUEUES: afterwards it listens on $socket_directory/disk.sock.
start_backend() {
  local socket=$socket_directory/disk.sock
  local -a backend_words=()
  backend_command "$1" "$socket" "$2"
  command -v "${backend_words[0]}" >/dev/null ||
    fail_step "there is no program '${backend_words[0]}'"
  printf '%q ' "${backend_words[@]}" >"$logs/backend.command"
  # It ends with this script, even on SIGKILL.
  setpriv --pdeathsig TERM "${backend_words[@]}" </dev/null >"$logs/backend.log" 2>&1 &
  backend_pid=$!
  wait_for_socket "$socket" "$backend_pid" || {
    tail -n 5 "$logs/backend.log" >&2
    fail_step "$(backend_name) did not open its socket"
  }
}

# stop_backend: it must exit on SIGTERM with status 0.
stop_backend() {
  local status=0
  stop_process "$backend_pid"
  wait "$backend_pid" || status=$?
  backend_pid=
  [ "$status" -eq 0 ] || fail_step "$(backend_name) ended with status $status on SIGTERM"
}

# start_guest QUEUES TIMEOUT INITRAMFS
start_guest() {
  local queues=$1 timeout=$2 initramfs=$3
  local -a disk_words words
  disk_words "$socket_directory/disk.sock" "$queues" "$GUEST_MEMORY"
  words=("$QEMU" "${disk_words[@]}" "${accelerator_words[@]}"
    -nodefaults -no-user-config -display none -no-reboot
    -chardev "file,id=console,path=$logs/console.log" -serial chardev:console
    -kernel "$GUEST_CACHE/kernel/vmlinuz" -initrd "$initramfs"
    -append "console=ttyS0 quiet no_timer_check panic=-1 oops=panic guestio_queues=$queues \
guestio_bytes=$((IMAGE_MIB << 20)) guestio_fs_mib=$FILE_SYSTEM_MIB guestio_files=$GUEST_FILES")
  printf '%q ' "${words[@]}" >"$logs/qemu.command"
  : >"$logs/console.log"
  setpriv --pdeathsig TERM timeout --kill-after=5 "$timeout" "${words[@]}" \
    </dev/null >"$logs/qemu.log" 2>&1 &
  qemu_pid=$!
  follow_console
}

# follow_console: prints the guest's steps until the machine has ended.
follow_console() {
  tail -n +1 -s 0.2 -f --pid="$qemu_pid" "$logs/console.log" |
    sed -un 's/\r$//; s/^@guestio step /    guest: /p; s/^@guestio fail /    guest: FAILED: /p' &
  follower_pid=$!
}

# wait_for_guest TIMEOUT: waits until QEMU has ended. An earlier end of the backend is a failure.
wait_for_guest() {
  local timeout=$1 ended='' status=0
  wait -n -p ended "$qemu_pid" "$backend_pid" || status=$?
  if [ "$ended" = "$backend_pid" ]; then
    backend_pid=
    tail -n 5 "$logs/backend.log" >&2
    fail_step "$(backend_name) ended with status $status while the guest was running"
  fi
  qemu_pid=
  wait "$follower_pid" || true
  follower_pid=
  case $status in
    0) ;;
    124 | 137) fail_step "the guest was not done after $timeout s" ;;
    *)
      tail -n 5 "$logs/${MACHINE,,}.log" >&2
      fail_step "$MACHINE ended with status $status"
      ;;
  esac
}

# guest_line KIND [NAME]: the rest of the guest's last line of that kind and name; fails without
# one.
guest_line() {
  tr -d '\r' <"$logs/console.log" | awk -v kind="$1" -v name="${2:-}" '
    $1 == "@guestio" && $2 == kind && (name == "" || $3 == name) {
      found = 1
      line = $0
      sub(/^@guestio [^ ]+ ?/, "", line)
      if (name != "") sub(/^[^ ]+ ?/, "", line)
    }
    END { if (!found) exit 1; print line }'
}

# guest_fact NAME: the value of that fact; without one the step fails.
guest_fact() {
  guest_line fact "$1" || fail_step "the guest reported no '$1'"
}

# judge_guest: every check has passed, and the guest has reached its end.
judge_guest() {
  local check text
  if text=$(guest_line fail); then fail_step "guest check: $text"; fi
  for check in "${GUEST_CHECKS[@]}"; do
    text=$(guest_line pass "$check") || {
      tail -n 15 "$logs/console.log" >&2
      fail_step "the guest stopped without a result of its check '$check'"
    }
    results+=("guest: $check" "ok    $text")
  done
  guest_line "done" >/dev/null || fail_step "the guest did not reach its end"
}

# requires_rings: whether the environment requires a kind or a size of ring.
requires_rings() { [ "${GUESTIO_PACKED:-off}" = on ] || [ -n "${GUESTIO_QUEUE_SIZE:-}" ]; }

# judge_rings: the required rings were in use, by guestio-blk's log with --verbose.
judge_rings() {
  local kind=split size=${GUESTIO_QUEUE_SIZE:-[0-9]+}
  requires_rings && [ "$(backend_name)" = guestio-blk ] || return 0
  [ "${GUESTIO_PACKED:-off}" = off ] || kind=packed
  grep -qE "runs: $kind, $size entries" "$logs/backend.log" ||
    fail_step "no $kind ring of $size entries in the backend's log"
  results+=("host: rings" "ok    $kind${GUESTIO_QUEUE_SIZE:+ of $GUESTIO_QUEUE_SIZE entries}")
}

# judge_image IMAGE
judge_image() {
  local image=$1 text raw_md5 sums_md5 files
  raw_md5=$(guest_fact raw_md5)
  sums_md5=$(guest_fact sums_md5)
  files=$(guest_fact files)
  text=$(check_image_fsck "$image" "$logs/host-fsck.log") || fail_step "$text"
  results+=("host: file system" "ok    $text")
  text=$(check_image_files "$image" "$logs/host-files.log" "$sums_md5" "$files" "$logs/files") ||
    fail_step "$text"
  results+=("host: files" "ok    $text")
  text=$(check_image_raw "$image" "$raw_md5") || fail_step "$text"
  results+=("host: raw blocks" "ok    $text")
}

# print_table QUEUES
print_table() {
  local kernel read_mib written_mib requests read_speed write_speed
  kernel=$(guest_fact kernel)
  read_mib=$(guest_fact read_mib)
  written_mib=$(guest_fact written_mib)
  requests=$(guest_fact requests)
  read_speed=$(guest_fact read_mib_s)
  write_speed=$(guest_fact write_mib_s)
  printf '\n'
  printf '  %-20s %s\n' \
    "guest kernel" "$kernel, ${GUESTIO_ACCEL:-tcg}, processors and queues: $1" \
    "backend" "$(backend_name)" \
    "${results[@]}" \
    "bytes moved" "$read_mib MiB read, $written_mib MiB written, $requests requests" \
    "read throughput" "$read_speed MiB/s (1 MiB direct, one at a time)" \
    "write throughput" "$write_speed MiB/s (1 MiB direct, one at a time)"
}

# begin_logs: $logs is a directory for this guest only, without old logs.
begin_logs() {
  mkdir -p "$logs"
  logs=$(cd "$logs" && pwd)
  exec 8>"$logs/lock"
  flock -n 8 || die "another guest is running with its logs in $logs"
  find "$logs" -maxdepth 1 -name '*.log' -delete
}

# begin_boot LOGS: the options that every machine has, checked; $timeout, $logs and the traps.
begin_boot() {
  logs=$1
  timeout=${GUESTIO_GUEST_TIMEOUT:-240}
  [ -z "${GUESTIO_QUEUE_SIZE:-}" ] || require_number GUESTIO_QUEUE_SIZE "$GUESTIO_QUEUE_SIZE"
  require_number GUESTIO_GUEST_TIMEOUT "$timeout"
  timeout=$((timeout * ${GUESTIO_TEST_PATIENCE:-1}))
  # For judge_rings.
  ! requires_rings || GUESTIO_BLK_OPTIONS="${GUESTIO_BLK_OPTIONS:-} --verbose"
  set_traps
  begin_logs
}

# serve_image IMAGE QUEUES
serve_image() {
  ensure_image "$1"
  begin "Starting $(backend_name) on $1"
  make_socket_directory
  start_backend "$1" "$2"
}

# finish_boot IMAGE QUEUES: waits for the guest and judges it, its rings and the image.
finish_boot() {
  wait_for_guest "$timeout"
  judge_guest
  judge_rings

  begin "Stopping $(backend_name)"
  stop_backend

  begin "Checking the image from the host"
  judge_image "$1"
  print_table "$2"
}

boot_guest() {
  local image=$1 queues=${GUESTIO_QUEUES:-1} timeout
  local -a results=() accelerator_words=()
  accelerator_words
  require_number GUESTIO_QUEUES "$queues"
  begin_boot "$2"

  begin "Preparing the guest's kernel and initramfs"
  ensure_kernel
  make_initramfs "$GUEST_CACHE/kernel" "$logs/initramfs.cpio"
  serve_image "$image" "$queues"

  begin "Running the guest: Linux $(cat "$GUEST_CACHE/kernel/release") in QEMU (${GUESTIO_ACCEL:-tcg})"
  start_guest "$queues" "$timeout" "$logs/initramfs.cpio"
  finish_boot "$image" "$queues"
}
