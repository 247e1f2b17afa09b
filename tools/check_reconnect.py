#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks that every front-end shown or started by the tree reconnects to a restarted backend.

QEMU connects to a vhost-user socket once, unless its character device has `reconnect`: after a
restart of the backend the guest would wait forever. In libvirt's XML it is `<reconnect enabled='yes'
.../>` in the source of a vhostuser disk. Exit status 1 and one line for each place without it.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PLACES = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "dev", "apps", "bench",
          "cmake", "docs", "examples", "guestio", "testing", "tests", "tools"]  # fmt: skip
# An option ends at a blank, a quote or a bracket; names in braces stand for values.
CHARDEV = re.compile(r"(?:-chardev[\s\"',]+|[\"'])socket,(?:[^\s\"'`)\\{]|\{\w*\})*")
DISK = re.compile(r"<disk\b[^>]*\btype=(['\"])vhostuser\1.*?</disk>", re.DOTALL)
RECONNECT = re.compile(r"<reconnect\b[^>]*\benabled=(['\"])yes\1")


def lacks(text):
    """Offset and kind of each front-end without it."""
    for match in CHARDEV.finditer(text):
        option = match[0]
        connects = "path=" in option and not re.search(r",server\b(?!=off)", option)
        if connects and not re.search(r",reconnect(-ms)?=", option):
            yield match.start(), "QEMU's character device without reconnect"
    for match in DISK.finditer(text):
        if not RECONNECT.search(match[0]):
            yield match.start(), "vhostuser disk of libvirt without <reconnect enabled='yes'>"


def mistakes():
    checked = pathlib.Path(__file__).name
    for place in PLACES:
        top = ROOT / place
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if not path.is_file() or path.name == checked:
                continue
            text = path.read_bytes().decode(errors="replace")
            for offset, what in lacks(text):
                line = text.count("\n", 0, offset) + 1
                yield f"{path.relative_to(ROOT)}:{line}: {what}"


def self_test():
    """Checks that each kind of mistake is found, and nothing else."""
    disk = "<disk type='vhostuser'>\n <source type='unix' path='/s'>{}</source>\n</disk>"
    cases = [("-chardev socket,id=c,path=/s", 1), ("-chardev socket,id=c,path=/s,reconnect=1", 0),
             ("-chardev socket,path=/s,id=c \\\n -device x,reconnect=1", 1),
             ('-chardev "socket,id=c,path=$socket"', 1),
             ('-chardev "socket,id=c,path=$socket,reconnect=1"', 0),
             ('["-chardev", f"socket,id={name},path={path}", "-device"]', 1),
             ('["-chardev", f"socket,id={name},path={path},reconnect=1"]', 0),
             ('"-chardev", f"socket,id=c,path={p}.c,server=on,wait=off"', 0),
             ("-chardev socket,id=c,path=/s,reconnect-ms=1000", 0),
             ("-chardev socket,id=c,host=h,port=1", 0), ("-chardev file,id=c,path=/log", 0),
             (disk.format(""), 1), (disk.format("<reconnect enabled='no'/>"), 1),
             (disk.format("<reconnect enabled='yes' timeout='1'/>"), 0),
             (disk.replace("'vhostuser'", "'file'"), 0)]  # fmt: skip
    wrong = [(text, found) for text, count in cases if len(found := list(lacks(text))) != count]
    print("\n".join(map(str, wrong)) if wrong else "mistakes are found")
    return 1 if wrong else 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    found = list(mistakes())
    print("\n".join(found) if found else "every front-end reconnects")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
