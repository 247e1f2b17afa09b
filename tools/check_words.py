#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks the words of the tree: terms of the field, typed placeholders, short paragraphs.

Usage: check_words.py [--report | --self-test | --help-of PROGRAM...]

Every tracked text file is searched for retired names and phrases (RETIRED), also across the lines of
a comment. The old side of a rename (`Old → New`, as in CHANGELOG) is no finding. A paragraph or list
item of README, ARCHITECTURE and CONTRIBUTING has at most five sentences. Exit status 1 and one line
for each finding; --report prints the number of findings a folder instead, with status 0. --help-of
checks the help texts of programs and of their subcommands for untyped placeholders.
"""
import collections
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")
MAX_SENTENCES = 5
# What stands between two words: blanks, or the end of a line and the beginning of the next comment.
GAP = r"(?:[ \t]+|[ \t]*\n[ \t]*(?:///?<?|\#)?[ \t]*)"

# The retired names (searched as they are) and what replaces them.
NAMES = {
    r"looks?_now_and_then": "poll_periodically",
    r"looks?_(in_vain|that_found)": "empty_polls, poll_hits",
    r"(M|_m|\bm)emory_?[Nn]ews|hear_[n]ews_of": "MemoryMonitor, on_memory_changed",
    r"Fixed(Guest)?Memory|fixed_(guest_)?memory": "RegisteredBuffers, MemoryRegistry",
    r"Recorded[R]ing|recorded_[r]ing": "InflightTrackedRing",
    r"Polled[R]ing|polled_[r]ing": "IopollRing",
    r"Vring[C]ontrol|vring_[c]ontrol": "RingSetup",
    r"(Split|Packed)(Device|Driver)Queue": "…DeviceRing, …DriverRing",
    r"(split|packed)_(device|driver)_queue": "…_device_ring, …_driver_ring",
    r"\bfinish_[u]p\b": "drain",
    r"\bgo_[o]n\b": "resume",
    r"\bobey(_\w+)?\(": "dispatch, handle_…",
    r"\bwants\(": "require_feature",
    r"\btell_[b]roken\b": "signal VringErr",
    r"\bsay_[a]gain\b": "resend",
    r"Page[W]atch|page_[w]atch": "PageGuard",
    r"Placed[R]ead|\bplaces?_reads?": "bounce_read",
    r"\b(Idle)?Take[r]\b": "Subscriber",
    r"\bSubject[s]\b": "ServerContext",
    r"\bPresenc[e]\b": "CpuOccupancy",
    r"\b(Hand|Take)Over\b": "TakeoverSender, TakeoverReceiver",
    r"[Pp]arcel": "TakeoverMessage",
    r"\bkMost[A-Z]\w*|\bmost_[a-z]\w*": "kMax…, max_…",
    r"\bTEX[T]\b": "a type: PATH, SIZE, N, NAME, SECONDS, on|off",
}
# The retired phrases, in upper and lower case; a blank is a gap.
PHRASES = {
    r"\bma(ke|kes|de|king) no sense\b": "malformed",
    r"\b(chain|request)s? that (is|are|was|were) out\b": "in flight, outstanding",
    r"\bgiv(e|es|ing) (a |the |each |its )?chains? back\b|\bchains? (is|are) given back\b": "return",
    r"\blook(s|ed|ing)?( \w+){0,4} in vain\b": "empty poll",
    r"\brings? (that )?rests?\b": "parked ring",
    r"\basked for kicks\b": "notification enabled, suppressed",
    r"\bfront-end (is|was) (here|gone)\b": "front-end connected, disconnected",
    r"\b(take|takes|taken|took|taking) leave\b": "disconnected after draining",
    r"\bbetter times\b": "held pending retry",
    r"\b(is|are|was|were) all there\b(?! (is|are|was))": "resident",
    r"\bfixed (guest )?memory\b|\bmemory that is let go\b": "registered, unregistered buffers",
    r"\b(give|gives|gave|giving) (the )?(memory|pages) back\b": "release, discard pages",
    r"\b(memory|pages?) (is|are|was|were) given back\b": "release, discard pages",
    r"\b(memory|mapping|page|region)s? (that )?(is|are|was|were) taken away\b": "revoke, unmap",
    r"\bspoiled (page|region|byte)s?\b|\b(page|region)s? (is|are) spoiled\b": "fault, poisoned page",
    r"\bthe (short|long) way\b": "fast path, slow path",
    r"\b(lie|lies|lay) badly\b|\bbadly aligned\b": "misaligned",
    r"\bends? (\w+ )?that (is|are) less than a block\b": "unaligned head, tail",
    r"\btransfers? that end(s|ed)? early\b": "short transfer",
    r"\bis left alone until\b": "backpressure",
    r"\bflushes that share\b": "coalesced flush",
    r"(?<!\ball\s)\bor nothing\b": "optional, nullable",
    r"\ba person\b|\bpeople\b": "operator, user, administrator, developer",
    r"\bsome hundred\b": "a number: at most 100 ms",
    r"\b(seconds|ms|s) a [KMG]iB\b": "s/GiB",
    r"\b(nanoseconds|ns) an operation\b": "ns/op",
    r"\bwhat stands behind\b|\bwhat was noticed\b": "Requirements, Limitations, How it works",
}
RENAME = re.compile(r"`?[\w:]+(?:\(\))?`? →")
RETIRED = [(re.compile(pattern), words) for pattern, words in NAMES.items()]
RETIRED += [(re.compile(pattern.replace(" ", GAP), re.IGNORECASE), words)
            for pattern, words in PHRASES.items()]
# The placeholders that CLI11 writes by itself.
UNTYPED = re.compile(r"\b(?:TEX[T]|U?INT|FLOAT|BOOLEAN)\b")
CODE = re.compile(r"`[^`]*`")
# A full stop, not that of an abbreviation, before the next sentence or the end.
SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\bcf)[.!?][)\"”*]*(?=\s|$)")


def retired_in(text):
    """Line number and complaint for each retired word."""
    kept = RENAME.sub(lambda match: " " * len(match[0]), text)
    for pattern, words in RETIRED:
        for match in pattern.finditer(kept):
            found = " ".join(match[0].split())
            yield text.count("\n", 0, match.start()) + 1, f"'{found}': say {words}"


def paragraphs(text):
    """Line number and text of each paragraph and list item: no headings, tables, code."""
    begin, lines, is_fenced = 0, [], False
    for number, line in enumerate([*text.splitlines(), ""], 1):
        is_fence = line.lstrip().startswith("```")
        is_fenced ^= is_fence
        is_code = is_fenced or is_fence or (not lines and line.startswith("    "))
        is_item = re.match(r"\s*([-*]|\d+\.)\s", line)
        if lines and (not line.strip() or is_code or is_item or line.startswith(("#", "|"))):
            yield begin, " ".join(lines)
            lines = []
        if line.strip() and not is_code and not line.startswith(("#", "|")):
            begin = begin if lines else number
            lines.append(re.sub(r"^\s*([-*]|\d+\.)\s+", "", line).strip())


def long_paragraphs_in(text):
    for number, paragraph in paragraphs(text):
        count = len(SENTENCE_END.findall(CODE.sub("x", paragraph)))
        if count > MAX_SENTENCES:
            yield number, f"a paragraph of {count} sentences"


def tracked_texts():
    """Path relative to the root and text of each tracked text file."""
    listing = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], check=True,
                             capture_output=True, text=True).stdout  # fmt: skip
    for name in listing.split("\0")[:-1]:
        path = ROOT / name
        content = path.read_bytes() if path.is_file() else b""
        try:
            if b"\0" not in content:
                yield name, content.decode()
        except UnicodeDecodeError:
            pass


def findings():
    """File, line and complaint for each finding."""
    for name, text in tracked_texts():
        found = list(retired_in(text))
        if name in PAGES:
            found += long_paragraphs_in(text)
        yield from ((name, *finding) for finding in sorted(found))


def report():
    counts = collections.Counter(str(pathlib.PurePath(name).parent) for name, *_ in findings())
    for folder, count in sorted(counts.items()):
        print(f"{count:5} {folder}")
    print(f"{counts.total():5} in all")


def help_texts(program):
    """The help text of a program, and those of the subcommands that it lists."""
    def help_of(*words):
        return subprocess.run([program, *words, "--help"], check=True, capture_output=True, text=True,
                              timeout=60).stdout  # fmt: skip

    text = help_of()
    yield text
    listed = re.search(r"^\S*subcommands:?$\n((?:^ .*\n?)+)", text, re.MULTILINE | re.IGNORECASE)
    for name in re.findall(r"^  (\S+)", listed[1], re.MULTILINE) if listed else []:
        yield help_of(name)


def untyped_help(programs):
    for program in programs:
        for text in help_texts(program):
            lines = [line for line in text.splitlines() if UNTYPED.search(line)]
            yield from (f"{pathlib.Path(program).name} --help: {line.strip()}" for line in lines)


def self_test():
    """Checks that retired words are found, and nothing else. A ~ in a sample is left out: this file
    is checked as well."""
    retired = [("class Memory~News {", 1), ("a chain that make~s no sense", 1), ("k~MostBytes", 1),
               ("/// a chain that makes\n/// no~ sense", 1), ("# makes\n  # no~ sense", 1),
               ("Memory~News and Vring~Control", 2), ("`Memory~News` → `MemoryMonitor`", 0),
               ("Memory~News → MemoryMonitor", 0), ("the almost_full ring, the utmost care", 0),
               ("all or nothing", 0), ("the error, or~ nothing", 1), ("that is all there is", 0),
               ("memory that is all~ there", 1), ("some hundredths of a second", 0),
               ("--name TEX~T", 1), ("TEXT_SIZE and text", 0), ("0.15 s~ a GiB", 1),
               ("it makes sense", 0), ("takes one, or the other", 0), ("peo~ple", 1)]  # fmt: skip
    five = "One. Two (`a. b. c.`). Three, e.g. this! Four? Five."
    pages = [(five, 0), (five + " Six.", 1), (five + "\n\n" + five, 0), (five + "\nSix.", 1),
             (f"- {five}\n- {five}\n", 0), (f"- {five}\n  Six.\n", 1), (f"1. {five} Six.\n2. One.", 1),
             (f"| {five} | Six. Seven. |", 0), (f"```\n{five} Six.\n```", 0),
             (f"    {five} Six.", 0), ("Version 1.2.3.4.5.6.7 of a.b.c.d.e.f.", 0)]  # fmt: skip
    wrong = [sample for sample, count in retired
             if len(list(retired_in(sample.replace("~", "")))) != count]
    wrong += [sample for sample, count in pages if len(list(long_paragraphs_in(sample))) != count]
    print("\n".join(map(repr, wrong)) if wrong else "findings are found")
    return 1 if wrong else 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    if sys.argv[1:] == ["--report"]:
        report()
        return 0
    if sys.argv[1:2] == ["--help-of"] and sys.argv[2:]:
        found = list(untyped_help(sys.argv[2:]))
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        found = [f"{name}:{line}: {complaint}" for name, line, complaint in findings()]
    print("\n".join(found) if found else "the words are those of the field")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
