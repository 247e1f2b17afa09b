#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks docs/seed-map.md against the tree.

Every named header and test exists. The functions in the second column are in the headers of the same
row. Every row has a test. The faults are 1 to 22, each with its own tests, and the tables name every
test of a fault in the tree. Exit status 1 and one line for each mistake.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
MAP = ROOT / "docs" / "seed-map.md"
FAULTS = 22
TEST = re.compile(r"^\s*(?:TYPED_)?TEST(?:_F|_P)?\(\s*(\w+),\s*(\w+)\)", re.MULTILINE)
CTEST = re.compile(r"add_test\(NAME\s+(\w+\.\w+)")
CODE = re.compile(r"`([^`]+)`")
CALL = re.compile(r"(\w+)(?:<\w+>)?\(")
TEST_NAME = re.compile(r"\w+\.\w+")
FAULT = re.compile(r"Fault(\d\d)")


def tests_in_tree(root):
    """All tests, as Suite.Name."""
    found = set()
    for folder in ("guestio", "tests", "apps"):
        for path in (root / folder).rglob("*_test.cc"):
            found.update(f"{suite}.{name}" for suite, name in TEST.findall(path.read_text()))
        # Scripts.
        for path in (root / folder).rglob("CMakeLists.txt"):
            found.update(CTEST.findall(path.read_text()))
    return found


def rows(text):
    """The cells of each row of a table, with its line number; not the heads of tables."""
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        following = lines[number] if number < len(lines) else ""
        if line.startswith("|") and not line.startswith("| ---") and "| --- |" not in following:
            yield number, [cell.strip() for cell in line.strip("|").split("|")]


def mistakes_in_item(cells, tests, read_header):
    """The mistakes in the row of an item: its name, ours, headers, tests, difference."""
    headers = CODE.findall(cells[2])
    text = ""
    for header in headers:
        content = read_header(header)
        if content is None:
            yield f"there is no header {header}"
        text += content or ""
    for call in CALL.findall(" ".join(CODE.findall(cells[1]))):
        if not re.search(rf"\b{call}\b", text):
            yield f"{call} is not in {' or '.join(headers)}"
    yield from mistakes_in_tests(cells[3], tests)


def mistakes_in_tests(cell, tests):
    names = CODE.findall(cell)
    if not names:
        yield "no test proves it"
    for name in names:
        if not TEST_NAME.fullmatch(name) or name not in tests:
            yield f"there is no test {name}"


def mistakes_in_fault(cells, tests):
    """The mistakes in the row of a fault: its number, the original's, tests."""
    yield from mistakes_in_tests(cells[2], tests)
    for name in CODE.findall(cells[2]):
        number = FAULT.search(name)
        if number is None or int(number[1]) != int(cells[0]):
            yield f"{name} is not a test of fault {cells[0]}"


def mistakes(text, tests, read_header):
    faults = []
    for number, cells in rows(text):
        found = []
        if len(cells) == 5:
            found = mistakes_in_item(cells, tests, read_header)
        elif len(cells) == 3 and cells[0].isdecimal():
            faults.append(int(cells[0]))
            found = mistakes_in_fault(cells, tests)
        else:
            found = [f"a row of {len(cells)} cells"]
        yield from (f"docs/seed-map.md:{number}: {mistake}" for mistake in found)
    if faults != list(range(1, FAULTS + 1)):
        yield f"docs/seed-map.md: the faults are not 1 to {FAULTS}"
    named = set(CODE.findall(text))
    yield from (f"docs/seed-map.md: {name} is left out"
                for name in sorted(tests) if FAULT.search(name) and name not in named)


def read_header(header):
    path = ROOT / header
    return path.read_text() if path.is_file() else None


def self_test():
    """Checks that each kind of mistake is found."""
    tests = {"A.Works"} | {f"A.Fault{n:02}X" for n in range(1, FAULTS + 1)}
    faults = "".join(f"| {n} | it | `A.Fault{n:02}X` |\n" for n in range(1, FAULTS + 1))
    head = "| seed | ours | header | test | difference |\n| --- | --- | --- | --- | --- |\n"
    good = head + "| `a` | `run(x)` | `h.h` | `A.Works` | |\n\n" + faults
    headers = {"h.h": "void run(int);"}.get
    cases = [(good, 0), (good.replace("run(x)", "walk(x)"), 1), (good.replace("h.h", "i.h"), 2),
             (good.replace("A.Works", "A.Fails"), 1), (good.replace("`A.Works`", ""), 1),
             (good.replace("`A.Fault07X`", "`A.Fault08X`"), 2),
             (good.replace("| 22 | it | `A.Fault22X` |\n", ""), 2), (good + "| a | b |\n", 1)]
    wrong = [(index, found) for index, (text, count) in enumerate(cases)
             if len(found := list(mistakes(text, tests, headers))) != count]
    print("\n".join(map(str, wrong)) if wrong else "mistakes are found")
    return 1 if wrong else 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    found = list(mistakes(MAP.read_text(), tests_in_tree(ROOT), read_header))
    print("\n".join(found) if found else "the seed map agrees with the tree")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
