#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks docs/conformance.md against the tree.

The rules are 1 to 43 and later ones with tests, in order. Every result is held, partly (with the
missing part) or not yet. A rule held in whole or in part names tests. Every named test exists, and a
test with a rule in its name is in the row of that rule. Exit status 1 and one line for each mistake.
"""
import re
import sys

from check_seed_map import CODE, ROOT, TEST_NAME, rows, tests_in_tree

TABLE = ROOT / "docs" / "conformance.md"
RULES = 43
RESULT = re.compile(r"held|partly: .+|not yet(: .+)?")
NAMED_RULES = re.compile(r"\.Rules?((?:\d+(?:And)?)+)")


def mistakes_in_row(cells, tests):
    """The mistakes in a row: rule, its words, tests, result."""
    names = CODE.findall(cells[2])
    if not RESULT.fullmatch(cells[3]):
        yield f"there is no result '{cells[3]}'"
    if bool(names) == cells[3].startswith("not yet"):
        yield "tests and result do not agree"
    for name in names:
        if not TEST_NAME.fullmatch(name) or name not in tests:
            yield f"there is no test {name}"
        said = NAMED_RULES.search(name)
        if said and int(cells[0]) not in map(int, re.findall(r"\d+", said[1])):
            yield f"{name} is not a test of rule {cells[0]}"


def mistakes(text, tests):
    rules = []
    for number, cells in rows(text):
        if len(cells) == 4 and cells[0].isdecimal():
            rules.append(int(cells[0]))
            found = mistakes_in_row(cells, tests)
        else:
            found = [f"a row of {len(cells)} cells, or without a number"]
        yield from (f"docs/conformance.md:{number}: {mistake}" for mistake in found)
    if rules[:RULES] != list(range(1, RULES + 1)) or rules != sorted(set(rules)):
        yield f"docs/conformance.md: the rules are not 1 to {RULES}, and later ones in order"


def self_test():
    """Checks that each kind of mistake is found."""
    tests = {"A.Works", "A.Rule05Works", "A.Rule5And7Work"}
    head = "| rule | what | tests | result |\n| --- | --- | --- | --- |\n"
    good = head + "".join(f"| {n} | it | `A.Works` | held |\n" for n in range(1, RULES + 1))
    row = "| 5 | it | `A.Works` | held |\n"
    cases = [(good, 0), (good.replace(row, "| 5 | it | | not yet |\n"), 0),
             (good.replace(row, "| 5 | it | `A.Rule5And7Work` | partly: some |\n"), 0),
             (good.replace(row, "| 5 | it | `A.Rule05Works` | held |\n"), 0),
             (good.replace("| 7 | it | `A.Works`", "| 7 | it | `A.Rule05Works`"), 1),
             (good.replace(row, row.replace("Works", "Fails")), 1),
             (good.replace(row, row.replace("`A.Works`", "")), 1),
             (good.replace(row, row.replace("held", "not yet")), 1),
             (good.replace(row, row.replace("held", "partly")), 1),
             (good.replace(row, ""), 1), (good.replace(row, row + row), 1),
             (good + "| a | b |\n", 1)]
    wrong = [(index, found) for index, (text, count) in enumerate(cases)
             if len(found := list(mistakes(text, tests))) != count]
    print("\n".join(map(str, wrong)) if wrong else "mistakes are found")
    return 1 if wrong else 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    found = list(mistakes(TABLE.read_text(), tests_in_tree(ROOT)))
    print("\n".join(found) if found else "the table of rules agrees with the tree")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
