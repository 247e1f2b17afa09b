# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Configures and builds CMake presets. Source it after common.sh.

# use_ccache: lets the presets go through ccache when it is installed and nobody chose otherwise.
use_ccache() {
  if [ -z "${GUESTIO_CCACHE+set}" ] && command -v ccache >/dev/null; then
    GUESTIO_CCACHE=ccache
  fi
  export GUESTIO_CCACHE="${GUESTIO_CCACHE:-}"
  # What tests share is a compiled header, which ccache refuses without this.
  export CCACHE_SLOPPINESS=${CCACHE_SLOPPINESS:-pch_defines,time_macros}
}

# configure_preset PRESET [ARGUMENT...]: the arguments are cmake's.
configure_preset() {
  use_ccache
  (cd "$GUESTIO_ROOT" && cmake --preset "$@" -Wno-dev --log-level=WARNING) ||
    die "configuring the preset '$1' failed"
}

# build_preset PRESET [TARGET...]: all targets when none is named. Each line of ninja's tells the
# preset, for those who build several at once.
build_preset() {
  local preset=$1
  shift
  step "Building the preset '$preset'${*:+ ($*)}"
  configure_preset "$preset"
  (cd "$GUESTIO_ROOT" && NINJA_STATUS="[$preset %f/%t] " cmake --build --preset "$preset" ${1:+--target "$@"}) ||
    die "building the preset '$preset' failed"
}
