# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# `./dev test quick`: the tests of some rooms and the cheap tests of the programs, in the preset
# dev. Source it after common.sh, packages.sh and build.sh.

# rooms_with_tests: the folders with unit tests, one a line, without the leading guestio/.
rooms_with_tests() {
  (cd "$GUESTIO_ROOT" && find guestio apps -name CMakeLists.txt \
    -exec grep -lE '^ *(guestio_test\(|TESTS )' {} +) |
    sed 's|^guestio/||; s|/CMakeLists.txt$||' | LC_ALL=C sort
}

# nearest_of WORD: the line of standard input nearest to WORD, by its whole text or by its last folder,
# in letters to insert, drop or replace; nothing if more than a third of the letters differ.
nearest_of() {
  awk -v word="$1" '
    function least(a, b, c) { if (b < a) a = b; return c < a ? c : a }
    function distance(a, b,    i, j, row, above, diagonal) {
      for (j = 0; j <= length(b); j++) row[j] = j
      for (i = 1; i <= length(a); i++) {
        diagonal = row[0]
        row[0] = i
        for (j = 1; j <= length(b); j++) {
          above = row[j]
          row[j] = least(above + 1, row[j - 1] + 1, diagonal + (substr(a, i, 1) != substr(b, j, 1)))
          diagonal = above
        }
      }
      return row[length(b)]
    }
    {
      name = $0
      sub(/.*\//, "", name)
      d = least(distance(word, $0), distance(word, name), length(word))
      if (best == "" || d < fewest) { best = $0; fewest = d }
    }
    END { if (best != "" && word != "" && fewest * 3 <= length(word)) print best }'
}

# rooms_named WORD...: the rooms of these folders, one a line. A folder of rooms (vhost) stands for
# all of them.
rooms_named() {
  local word all found nearest
  all=$(rooms_with_tests)
  for word in "$@"; do
    word=${word#./}
    word=${word#guestio/}
    word=${word%/}
    found=$(awk -v word="$word" '$0 == word || index($0, word "/") == 1' <<<"$all")
    if [ -z "$found" ]; then
      nearest=$(sed 'p; s|/.*||' <<<"$all" | nearest_of "$word")
      die_usage "no room '$word' has tests${nearest:+; did you mean $nearest?}
rooms: ${all//$'\n'/ }"
    fi
    printf '%s\n' "$found"
  done
}

# test_quick [ROOM...]
test_quick() {
  local names room
  local -a rooms=() targets=(tests_of_quick)
  names=$(rooms_named "$@")
  [ -z "$names" ] || mapfile -t rooms < <(LC_ALL=C sort -u <<<"$names")
  for room in "${rooms[@]}"; do targets+=("tests_of_${room//\//_}"); done
  install_groups build
  build_preset dev "${targets[@]}"
  step "Running the tests of ${rooms[*]:+${rooms[*]} and }the quick ones of the programs"
  local IFS='|'
  exec "$GUESTIO_ROOT/tools/run_tests.sh" "$GUESTIO_ROOT/build/dev" \
    --label-regex "^(${rooms[*]:+${rooms[*]}|}quick)\$"
}
