# SPDX-License-Identifier: MIT
# How doxygen is shown our headers:
# - A paragraph right before `namespace ...` says what the file is for; doxygen would take it for the
#   namespace's.
# - A paragraph that is set three columns in is a picture; doxygen wants four.
# - Specialisations for fmt are left out: doxygen 1.9 stumbles over their constraints.
function flush_block() {
  printf "%s", block
  block = ""
}

match($0, /^ *\/\/\//) {
  text = substr($0, RLENGTH + 1)
  if (text == "") {
    picture = 0
  } else if (after_blank && text ~ /^   +[^ ]/) {
    picture = 1
  }
  if (picture) $0 = substr($0, 1, RLENGTH) "  " text
  after_blank = text == ""
  if (RSTART == 1) block = block $0 "\n"; else print
  next
}
{ after_blank = picture = 0 }
/^struct fmt::formatter/, /^};/ { block = ""; next }
/^namespace / && block != "" { print "/// \\file" }
{
  flush_block()
  print
}
END { flush_block() }
