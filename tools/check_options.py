#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks docs/options.md against --help of the programs.

Usage: check_options.py GUESTIO_BLK GUESTIO_LOAD | --self-test | --tables GUESTIO_BLK GUESTIO_LOAD

Every option of --help has exactly one row in the section of its program and in the table of its
group, with the same names and placeholder, and every row has its option. A row has at most 12 words,
a line of --help at most 100 columns. --tables prints the tables of --help. Exit status 1 and one
line for each mistake.
"""
import pathlib
import re
import subprocess
import sys

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "options.md"
MAX_WORDS = 12
MAX_COLUMNS = 100
GROUP = re.compile(r"^([A-Z]\w*):$")
OPTION = re.compile(r"^  (-\S+)(?: (\S.*?))?(?:  +(\S.*))?$")
SECTION = re.compile(r"^## `([^`]+)`$")
SUBSECTION = re.compile(r"^### (\w+)$")
ROW = re.compile(r"^\| `(-[^`]*)` \| (.*) \|$")


def options_in_help(text):
    """Group, names with placeholder, and description of each option."""
    group = None
    for line in text.splitlines():
        if match := GROUP.match(line):
            group = match[1]
        elif match := OPTION.match(line):
            yield group, f"{match[1]} {match[2] or ''}".strip(), match[3] or ""


def wide_lines(section, text):
    for line in text.splitlines():
        if len(line) > MAX_COLUMNS:
            yield f"{section} --help: {len(line)} columns: {line.strip()}"


def rows_in_page(text):
    """Section, group, option and description of each row."""
    section = group = None
    for line in text.splitlines():
        if match := SECTION.match(line):
            section, group = match[1], None
        elif match := SUBSECTION.match(line):
            group = match[1]
        elif match := ROW.match(line):
            yield section, group, match[1].replace("\\|", "|"), match[2]


def mistakes(helps, page):
    """`helps`: the text of --help by section."""
    rows = list(rows_in_page(page))
    found = {row[:3] for row in rows}
    for row in rows:
        if rows.count(row) > 1 or sum(row[:3:2] == other[:3:2] for other in rows) > 1:
            yield f"{row[0]}: more than one row for {row[2]}"
        if len(f"{row[2]} {row[3]}".split()) > MAX_WORDS:
            yield f"{row[0]}: more than {MAX_WORDS} words: {row[2]} {row[3]}"
    wanted = set()
    for section, text in helps.items():
        yield from wide_lines(section, text)
        for group, option, description in options_in_help(text):
            wanted.add((section, group, option))
            if not description:
                yield f"{section} --help: more than one line for {option}"
    for section, group, option in sorted(wanted - found, key=str):
        yield f"{section}: {group}: no row for {option}"
    for section, group, option in sorted(found - wanted, key=str):
        yield f"{section}: {group}: no option in --help for {option}"


def all_helps(blk, load):
    commands = {"guestio-blk": [blk], "guestio-load": [load]}
    commands |= {f"guestio-load {name}": [load, name] for name in ("info", "run", "verify")}
    return {section: subprocess.run([*command, "--help"], check=True, capture_output=True, text=True,
                                    timeout=60).stdout
            for section, command in commands.items()}  # fmt: skip


def print_tables(helps):
    for section, text in helps.items():
        print(f"## `{section}`")
        group = None
        for now, option, description in options_in_help(text):
            if now != group:
                print(f"\n### {now}\n\n| option | meaning |\n| --- | --- |")
                group = now
            print("| `" + option.replace("|", "\\|") + f"` | {description} |")
        print()


def self_test():
    help_text = "Disk:\n  --fd N          a socket\n  --poll on|off   poll\n  -h,--help       print\n"
    page = ("## `x`\n### Disk\n| `--fd N` | a socket |\n| `--poll on\\|off` | poll |\n"
            "| `-h,--help` | print |\n")  # fmt: skip
    cases = [(help_text, page, 0), (help_text, page.replace("--fd N", "--fd PATH"), 2),
             (help_text, page + "| `--fd N` | again |\n", 2),
             (help_text, page.replace("a socket", "word " * 11), 1),
             (help_text, page.replace("### Disk", "### Control"), 6),
             (help_text, page.replace("| `-h,--help` | print |\n", ""), 1),
             (help_text + "  --new           new\n", page, 1),
             (help_text + "x" * 101, page, 1),
             (help_text.replace("a socket", ""), page, 1)]  # fmt: skip
    wrong = [(found, count) for text, rows, count in cases
             if len(found := list(mistakes({"x": text}, rows))) != count]
    print("\n".join(map(str, wrong)) if wrong else "mistakes are found")
    return 1 if wrong else 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    if sys.argv[1:2] == ["--tables"] and len(sys.argv) == 4:
        print_tables(all_helps(*sys.argv[2:]))
        return 0
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    found = list(mistakes(all_helps(*sys.argv[1:]), PAGE.read_text()))
    print("\n".join(found) if found else "options.md agrees with --help")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
