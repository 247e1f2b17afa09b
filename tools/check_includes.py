#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks the table of rooms: which room may include whom, in sources and in CMake's links.

The table below is the one in ARCHITECTURE.md; `--table` prints it as Markdown so that a test can
compare the two. Exit status 1 and one line for each include that breaks it.
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
    "disk/file": ["base", "mem", "task", "buf", "uring", "disk"],
    "blk": ["base", "mem", "buf", "task", "disk", "virtio"],
    "registered": ["base", "mem", "task", "uring"],
    "vhost/wire": ["base", "task", "uring"],
    "vhost/frontend": ["base", "mem", "virtio", "vhost/wire"],
    "vhost/inflight": ["base", "mem", "virtio", "vhost/wire"],
    "vhost/ring": ["base", "mem", "task", "uring", "virtio", "registered", "vhost/inflight"],
    "vhost/session": ["base", "mem", "task", "uring", "virtio", "registered", "vhost/wire",
                      "vhost/inflight", "vhost/ring"],
}
ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s*["<](guestio|testing|apps)/([^">]+)[">]')


def room_of(path):
    """The room that a path relative to guestio/ lies in, the longest name first. What a room's own
    tests share lies in its folder `test`."""
    if path.parent.name == "test":
        path = path.parent.parent / path.name
    for room in sorted(ROOMS, key=len, reverse=True):
        if path.parent == pathlib.PurePath(room):
            return room
    return None


def is_test(path):
    return path.parent.name == "test" or path.name.endswith(("_test.cc", "_for_test.h", "_fuzz.cc", "_benchmark.cc"))


def violations_in(relative, text):
    """What breaks the table in the file at `relative` (to guestio/)."""
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


def violations():
    for path in sorted((ROOT / "guestio").rglob("*")):
        if path.suffix in (".h", ".cc"):
            yield from violations_in(path.relative_to(ROOT / "guestio"), path.read_text())


def table():
    for room, allowed in ROOMS.items():
        yield f"| `guestio/{room}` | {', '.join(allowed) or 'nothing of ours'} |"


def self_test():
    """Shows that violations are found, and that what is allowed is not one."""
    cases = [("mem/x.h", "guestio/uring/loop.h", 1), ("mem/x.h", "guestio/base/error.h", 0),
             ("mem/x_test.cc", "testing/temporary.h", 0), ("mem/x.cc", "testing/temporary.h", 1),
             ("nowhere/x.h", "guestio/base/error.h", 1), ("blk/x.cc", "guestio/vhost/session/session.h", 1),
             ("disk/x.h", "guestio/disk/file/file_disk.h", 1)]
    wrong = [case for case in cases
             if len(list(violations_in(pathlib.PurePath(case[0]),
                                       f'#include "{case[1]}"'))) != case[2]]
    print("\n".join(map(str, wrong)) if wrong else "violations are found")
    return 1 if wrong else 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    if sys.argv[1:] == ["--table"]:
        print("\n".join(table()))
        return 0
    if sys.argv[1:] == ["--check-table"]:
        text = (ROOT / "ARCHITECTURE.md").read_text()
        missing = [row for row in table() if row.split(" | ")[0] not in text
                   or not re.search(re.escape(row.split(" | ")[0]) + r" \|.*\| "
                                    + re.escape(row.split(" | ")[1]), text)]
        for row in missing:
            print(f"ARCHITECTURE.md lacks or contradicts: {row}")
        return 1 if missing else 0
    found = list(violations())
    print("\n".join(found) if found else "includes keep to the table of rooms")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
