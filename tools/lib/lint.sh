# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# The checks of `./dev lint` and the formatter. Source it after common.sh and build.sh.

# cpp_files: our tracked C++ files, one a line.
cpp_files() { git -C "$GUESTIO_ROOT" ls-files -- '*.h' '*.cc'; }

# read_lines ARRAY COMMAND...: the output of the command. Empty output is a failure, since a check
# of no files would pass.
read_lines() {
  local -n lines=$1
  local text
  shift
  text=$("$@") || die "$1 failed (is this a git tree?)"
  [ -n "$text" ] || die "$1 found no files to check"
  # shellcheck disable=SC2034  # the caller's array
  mapfile -t lines <<<"$text"
}

# shell_files: our tracked shell files, by name or first line.
shell_files() {
  local file
  git -C "$GUESTIO_ROOT" ls-files | while IFS= read -r file; do
    case $file in
      *.sh) printf '%s\n' "$file" ;;
      *.md | *.txt | *.h | *.cc | *.py) ;;
      *) if head -n 1 -- "$GUESTIO_ROOT/$file" 2>/dev/null | grep -qaE '^#!.*[ /](ba|da)?sh\b'; then
        printf '%s\n' "$file"
      fi ;;
    esac
  done
}

lint_format() {
  local -a files
  read_lines files cpp_files
  (cd "$GUESTIO_ROOT" && clang-format-19 --dry-run -Werror -- "${files[@]}")
}

lint_includes() { (cd "$GUESTIO_ROOT" && python3 tools/check_includes.py); }

lint_classes() { (cd "$GUESTIO_ROOT" && python3 tools/check_classes.py); }

lint_words() { (cd "$GUESTIO_ROOT" && python3 tools/check_words.py); }

lint_shell() {
  local -a files
  local file
  read_lines files shell_files
  cd "$GUESTIO_ROOT" || return 1
  for file in "${files[@]}"; do
    bash -n "$file" || return 1
  done
  shellcheck --external-sources -- "${files[@]}"
}

lint_tidy() {
  # The preset dev with one compile command per source.
  configure_preset dev -B build/tidy -DGUESTIO_UNITY=OFF -DGUESTIO_UNITY_TESTS=OFF
  (cd "$GUESTIO_ROOT" && python3 tools/lib/tidy.py build/tidy build/dev)
}

# run_lint [CHECK...]: all checks, or those named, even after a failure; fails when one has failed.
run_lint() {
  local failed=() name
  [ $# -gt 0 ] || set -- format includes classes words shell tidy
  for name in "$@"; do
    declare -F "lint_$name" >/dev/null || die_usage "no such check: $name"
    step "Lint: $name"
    # In a subshell: `set -e` and `cd` of a check stay there.
    if ! (lint_"$name"); then failed+=("$name"); fi
  done
  [ "${#failed[@]}" -eq 0 ] || die "lint failed: ${failed[*]}"
  step "Lint is clean"
}

# format_tree: formats our C++ files for lint.
format_tree() {
  local -a files
  read_lines files cpp_files
  (cd "$GUESTIO_ROOT" && clang-format-19 -i -- "${files[@]}")
}
