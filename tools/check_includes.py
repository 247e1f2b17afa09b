#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks the includes of the tree against two declarations.

The table of rooms says which room may include which. The table below is the one in ARCHITECTURE.md:
`--table` prints it as Markdown, `--check-table` compares the two.

The header lists of each room's CMakeLists.txt declare the installed headers. A header is

    public    in PUBLIC_HEADERS: for users, documented, stable as docs/embedding.md says
    internal  in INTERNAL_HEADERS: installed because an installed header includes it
    private   in neither list: never installed

`--public` prints the paths of the public headers. Exit status 1 and one line for each violation.
"""
import pathlib
import re
import sys

ROOMS = {
    "base": [],
    "task": ["base"],
    "mem": ["base"],
    "uring": ["base", "task"],
    "buf": ["base", "mem", "task"],
    "virtio": ["base", "mem"],
    "disk": ["base", "mem", "task", "buf"],
    "disk/guard": ["base", "uring"],
    "disk/remote": ["base", "mem", "task", "buf", "uring", "disk", "disk/guard"],
    "disk/nbd": ["base", "mem", "task", "buf", "uring", "disk", "disk/guard", "disk/remote"],
    "disk/probe": ["base", "buf", "uring", "disk"],
    "disk/file": ["base", "mem", "task", "buf", "uring", "disk", "disk/guard", "disk/probe"],
    "blk": ["base", "mem", "buf", "task", "disk", "virtio"],
    "registered": ["base", "mem", "task", "uring"],
    "vhost/wire": ["base", "task", "uring"],
    "vhost/frontend": ["base", "mem", "virtio", "vhost/wire"],
    "vhost/inflight": ["base", "mem", "virtio", "vhost/wire"],
    "vhost/ring": ["base", "mem", "task", "uring", "virtio", "registered", "vhost/inflight"],
    "vhost/session": ["base", "mem", "task", "uring", "virtio", "registered", "vhost/wire",
                      "vhost/inflight", "vhost/ring"],
}
# Installed in guestio/testing, for backends outside of the tree.
SUITE = ("testing/disk_conformance.h", "testing/disk_subject.h")
ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s*["<](guestio|testing|apps)/([^">]+)[">]')


def room_of(path):
    """The room of a path relative to guestio/, the longest name first. A room's folder `test` holds
    the helpers of its own tests."""
    if path.parent.name == "test":
        path = path.parent.parent / path.name
    for room in sorted(ROOMS, key=len, reverse=True):
        if path.parent == pathlib.PurePath(room):
            return room
    return None


def is_test(path):
    return path.parent.name == "test" or path.name.endswith(("_test.cc", "_for_test.h", "_fuzz.cc", "_benchmark.cc"))


def table_violations_in(relative, text):
    """The includes of the file at `relative` (to guestio/) outside the table of rooms."""
    room = room_of(relative)
    where = pathlib.PurePath("guestio") / relative
    if room is None:
        yield f"{where}: lies in no room of the table"
        return
    for number, line in enumerate(text.splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        top, rest = match.groups()
        if top != "guestio":
            if not is_test(relative) or top == "apps":
                yield f"{where}:{number}: guestio/{room} may not include {top}/"
            continue
        target = room_of(pathlib.PurePath(rest))
        if target is None:
            yield f"{where}:{number}: {rest} lies in no room of the table"
        elif target != room and target not in ROOMS[room] and not is_test(relative):
            yield f"{where}:{number}: {room} may not include {target}"


def table_violations():
    for path in sorted((ROOT / "guestio").rglob("*")):
        if path.suffix in (".h", ".cc"):
            yield from table_violations_in(path.relative_to(ROOT / "guestio"), path.read_text())


def includes_of(text):
    """Our headers that a text includes, relative to guestio/."""
    matches = map(INCLUDE.match, text.splitlines())
    return [match.group(2) for match in matches if match and match.group(1) == "guestio"]


def declared(cmake_text, keyword):
    """The files after `keyword` in a room's CMakeLists.txt."""
    found = re.search(rf"^\s*{keyword}\s+([^A-Z)]*)", cmake_text, re.MULTILINE)
    return found.group(1).split() if found else []


def declared_headers(keyword):
    return [f"{room}/{name}" for room in ROOMS for name in declared(
        (ROOT / "guestio" / room / "CMakeLists.txt").read_text(), keyword)]


def header_violations(public, internal, headers, users):
    """What is wrong with the header lists. `headers` maps each header to what it includes, `users`
    each file of a user (example, consumer test) likewise."""
    for header in sorted(set(public) & set(internal)):
        yield f"guestio/{header}: stands in PUBLIC_HEADERS and in INTERNAL_HEADERS"
    installed = set(public) | set(internal)
    needed = set()
    for header in sorted(installed):
        if header not in headers:
            yield f"guestio/{header}: is declared and does not exist"
        elif is_test(pathlib.PurePath(header)):
            yield f"guestio/{header}: is a test's, and declared"
        for target in headers.get(header, []):
            needed.add(target)
            if target not in installed:
                yield (f"guestio/{header}: is installed and includes {target}, which is not: add it "
                       "to INTERNAL_HEADERS")
    for header in sorted(set(internal) - needed):
        yield f"guestio/{header}: no installed header includes it: drop it from INTERNAL_HEADERS"
    for user, targets in sorted(users.items()):
        for target in targets:
            if target not in public:
                yield f"{user}: includes {target}, which is not public"


def tree_header_violations():
    folder = ROOT / "guestio"
    headers = {str(path.relative_to(folder)): includes_of(path.read_text())
               for path in folder.rglob("*.h")}
    paths = [path for place in ("examples", "tests/consumer") for path in (ROOT / place).rglob("*")
             if path.suffix in (".h", ".cc")]
    users = {str(path.relative_to(ROOT)): [name for name in includes_of(path.read_text()) if name not in SUITE]
             for path in [*paths, *(ROOT / name for name in SUITE)]}
    return header_violations(declared_headers("PUBLIC_HEADERS"),
                             declared_headers("INTERNAL_HEADERS"), headers, users)


def table():
    for room, allowed in ROOMS.items():
        yield f"| `guestio/{room}` | {', '.join(allowed) or 'nothing of ours'} |"


def self_test():
    """Shows that each kind of violation is found, and that valid includes are none."""
    cases = [("mem/x.h", "guestio/uring/loop.h", 1), ("mem/x.h", "guestio/base/error.h", 0),
             ("mem/x_test.cc", "testing/temporary.h", 0), ("mem/x.cc", "testing/temporary.h", 1),
             ("nowhere/x.h", "guestio/base/error.h", 1), ("blk/x.cc", "guestio/vhost/session/session.h", 1),
             ("disk/x.h", "guestio/disk/file/file_disk.h", 1)]
    wrong = [case for case in cases
             if len(list(table_violations_in(pathlib.PurePath(case[0]),
                                             f'#include "{case[1]}"'))) != case[2]]
    text = "guestio_room(mem\n  PUBLIC_HEADERS a.h\n    b.h\n  INTERNAL_HEADERS c.h\n  SOURCES a.cc)"
    lists = [(declared(text, "PUBLIC_HEADERS"), ["a.h", "b.h"]),
             (declared(text, "INTERNAL_HEADERS"), ["c.h"]), (declared(text, "TESTS"), [])]
    wrong += [case for case in lists if case[0] != case[1]]
    tree = {"mem/a.h": ["mem/b.h"], "mem/b.h": [], "mem/c.h": [], "mem/x_for_test.h": []}
    header_cases = [
        (["mem/a.h"], ["mem/b.h"], {"examples/a.cc": ["mem/a.h"]}, 0),
        (["mem/a.h"], [], {}, 1),  # a public header includes a private one
        (["mem/c.h"], ["mem/a.h"], {}, 2),  # an internal one does, and is not needed
        (["mem/b.h"], ["mem/c.h"], {}, 1),  # an internal header without an includer
        (["mem/d.h"], [], {}, 1),  # a declared header does not exist
        (["mem/a.h", "mem/b.h"], ["mem/b.h"], {}, 1),  # twice
        (["mem/x_for_test.h"], [], {}, 1),
        (["mem/a.h"], ["mem/b.h"], {"examples/a.cc": ["mem/b.h", "mem/c.h"]}, 2),
    ]
    wrong += [case for case in header_cases
              if len(list(header_violations(case[0], case[1], tree, case[2]))) != case[3]]
    print("\n".join(map(str, wrong)) if wrong else "violations are found")
    return 1 if wrong else 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    if sys.argv[1:] == ["--table"]:
        print("\n".join(table()))
        return 0
    if sys.argv[1:] == ["--public"]:
        print("\n".join(f"guestio/{header}" for header in declared_headers("PUBLIC_HEADERS")))
        return 0
    if sys.argv[1:] == ["--check-table"]:
        text = (ROOT / "ARCHITECTURE.md").read_text()
        missing = [row for row in table() if row.split(" | ")[0] not in text
                   or not re.search(re.escape(row.split(" | ")[0]) + r" \|.*\| "
                                    + re.escape(row.split(" | ")[1]), text)]
        for row in missing:
            print(f"ARCHITECTURE.md lacks or contradicts: {row}")
        return 1 if missing else 0
    found = list(table_violations()) + list(tree_header_violations())
    print("\n".join(found) if found else "includes keep to the table of rooms and the header lists")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
