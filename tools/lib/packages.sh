# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Installs missing Debian packages of tools/packages.txt. Source it after common.sh.

# packages_of GROUP...: the packages of these groups, one a line, each once.
packages_of() {
  local group
  for group in "$@"; do
    grep -q "^$group:" "$GUESTIO_ROOT/tools/packages.txt" ||
      die_usage "no package group '$group' in tools/packages.txt"
  done
  awk -v groups="$*" '
    BEGIN { split(groups, list, " "); for (i in list) wanted[list[i] ":"] = 1 }
    $1 in wanted { for (i = 2; i <= NF; i++) if (!seen[$i]++) print $i }
  ' "$GUESTIO_ROOT/tools/packages.txt"
}

# missing_packages PACKAGE...: those not installed, one a line.
missing_packages() {
  local installed
  installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null |
    awk '$2 == "installed" { print $1 }') || true
  printf '%s\n' "$@" | grep -vxF -f <(printf '%s\n' "$installed") || true
}

# as_root COMMAND...: runs it as root.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  else
    sudo "$@"
  fi
}

# run_apt ARGUMENTS...: apt-get without questions; waits for the lock of another apt. Its output is
# in build/apt.log; on failure its end is shown and the script exits.
run_apt() {
  local log=$GUESTIO_ROOT/build/apt.log
  mkdir -p "$GUESTIO_ROOT/build"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -q \
    -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 "$@" \
    </dev/null >"$log" 2>&1 || {
    tail -n 15 "$log" >&2
    die "apt-get $1 failed; its output is in $log"
  }
}

# install_groups GROUP...: makes sure that every package of these groups is installed.
install_groups() {
  command -v dpkg-query >/dev/null || die "this is not Debian: there is no dpkg-query"
  local names
  names=$(packages_of "$@")
  local -a packages missing
  mapfile -t packages <<<"$names"
  mapfile -t missing < <(missing_packages "${packages[@]}")
  [ "${#missing[@]}" -gt 0 ] || return 0

  step "Installing ${#missing[@]} Debian packages (${*})"
  note "${missing[*]}"
  if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
    die "these packages are missing, and installing them needs root or sudo; as root, run:
  apt-get update && apt-get install --no-install-recommends ${missing[*]}"
  fi
  run_apt update
  run_apt install -y --no-install-recommends "${missing[@]}"

  mapfile -t missing < <(missing_packages "${packages[@]}")
  [ "${#missing[@]}" -eq 0 ] || die "apt-get installed no ${missing[*]}"
}
