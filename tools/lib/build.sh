# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Configures and builds CMake presets. Source it after common.sh.

# use_ccache: sets GUESTIO_CCACHE to ccache where it is installed, unless set already.
use_ccache() {
  if [ -z "${GUESTIO_CCACHE+set}" ] && command -v ccache >/dev/null; then
    GUESTIO_CCACHE=ccache
  fi
  export GUESTIO_CCACHE="${GUESTIO_CCACHE:-}"
  # ccache refuses the tests' precompiled header without this.
  export CCACHE_SLOPPINESS=${CCACHE_SLOPPINESS:-pch_defines,time_macros}
}

# configure_preset PRESET [ARGUMENT...]: the arguments are cmake's.
configure_preset() {
  use_ccache
  (cd "$GUESTIO_ROOT" && cmake --preset "$@" -Wno-dev --log-level=WARNING) ||
    die "configuring the preset '$1' failed"
}

# build_preset PRESET [TARGET...]: without a target all of them. Each line of ninja names the
# preset, for concurrent builds.
build_preset() {
  local preset=$1
  shift
  step "Building the preset '$preset'${*:+ ($*)}"
  configure_preset "$preset"
  (cd "$GUESTIO_ROOT" && NINJA_STATUS="[$preset %f/%t] " cmake --build --preset "$preset" ${1:+--target "$@"}) ||
    die "building the preset '$preset' failed"
}
