#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Compares guestio-blk with qemu-storage-daemon and with the raw device: `./dev bench`.

Each row is one load on one kind of disk. In each round everybody is measured for a moment, one
after another and in an order that turns, the server on one core and the client on another. The
results are kept in build/bench/results.json, and docs/performance.md and docs/img/ are written from
all that is there, so rows may be measured one after another.
"""

import argparse
import contextlib
import datetime
import os
import pathlib
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile

from comparison import contenders, markdown, measure, plots, processes, profile, rows
from comparison.processes import BenchError
from comparison.results import Results

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "performance.md"
IMAGES = ROOT / "docs" / "img"
RESULTS = ROOT / "build" / "bench" / "results.json"
IDLE = "idle"  # the name of what is no row: servers with nothing to do
RAMP = 0.2  # seconds before measuring begins


def parse_arguments(words):
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__.split("\n\n")[0],
                                     epilog=__doc__.split("\n\n")[1])
    parser.add_argument("--rounds", type=positive(int), metavar="N",
                        help="rounds of which the median is taken (3)")
    parser.add_argument("--seconds", type=positive(float), metavar="S",
                        help="how long each measurement takes (0.8)")
    parser.add_argument("--quick", action="store_true",
                        help="one round of 0.3 s: to see that everything works")
    parser.add_argument("--only", action="append", metavar="TEXT", default=[],
                        help="only the row of this name, or else those whose name holds TEXT (may be "
                        "repeated; see --list)")
    parser.add_argument("--no-write", action="store_true",
                        help="print the tables, write no document and keep no results")
    parser.add_argument("--render", action="store_true",
                        help="measure nothing: write the document from the results that are there")
    parser.add_argument("--profile", action="store_true",
                        help="sort guestio-blk's time into the stages of a request, with perf, in "
                        "place of comparing")
    parser.add_argument("--list", action="store_true", help="print the rows' names")
    parser.add_argument("--variant", action="append", metavar="NAME=OPTIONS", default=[],
                        help="one more contender: guestio-blk with these options (may be repeated)")
    parser.add_argument("--programs", type=pathlib.Path, metavar="DIR",
                        default=ROOT / "build" / "release" / "bin",
                        help="where guestio-blk and guestio-load are (build/release/bin)")
    parser.add_argument("--image-size", type=positive(int), metavar="MIB", default=1024,
                        help="size of the disks (1024)")
    arguments = parser.parse_args(words)
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 3)
    arguments.seconds = arguments.seconds or (0.3 if arguments.quick else 0.8)
    return arguments


def positive(kind):
    def convert(text):
        value = kind(text)
        if not value > 0:
            raise ValueError
        return value
    convert.__name__ = f"positive {kind.__name__}"
    return convert


def choose_rows(only):
    """All rows, or those that are named: in full, or by a part of the names of several."""
    everything = rows.all_rows()
    full_names = {row.name for row in everything}

    def is_named(row):
        return any(text == row.name if text in full_names else text in row.name for text in only)

    chosen = [row for row in everything if not only or is_named(row)]
    if not chosen and not wants_idle(only):
        raise BenchError(f"no row's name holds {' or '.join(map(repr, only))} (see --list)")
    return chosen


def wants_idle(only):
    return not only or IDLE in only


def choose_contenders(variants):
    parties = contenders.all_contenders()
    for variant in variants:
        name, equals, options = variant.partition("=")
        if not name or not equals:
            raise BenchError(f"--variant {variant}: not of the form NAME=OPTIONS")
        parties.append(contenders.GuestioBlk(name, shlex.split(options)))
    return parties


def say(text):
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def places(arguments, targets):
    """Folders and filled images, gone again at the end."""
    build = ROOT / "build" / "bench"
    build.mkdir(parents=True, exist_ok=True)
    size = arguments.image_size << 20
    prefix = f"guestio-bench-{os.getpid()}-"
    with contextlib.ExitStack() as stack:
        # Socket paths are short, and a build folder's path may not be.
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix))
        images = {}
        for target, parent in (("ext4", build), ("tmpfs", pathlib.Path("/dev/shm"))):
            if target in targets:
                folder = stack.enter_context(
                    tempfile.TemporaryDirectory(prefix=prefix, dir=parent))
                images[target] = pathlib.Path(folder) / "disk.img"
                say(f"filling {images[target]} ({arguments.image_size} MiB)")
                fill(images[target], size)
        yield contenders.Places(arguments.programs, pathlib.Path(scratch), images, size)


def fill(path, size):
    """A file without holes, of bytes that nothing shrinks."""
    free = shutil.disk_usage(path.parent).free
    if free < size + (64 << 20):
        raise BenchError(f"{path.parent} has {free >> 20} MiB free, too little for a disk of "
                         f"{size >> 20} MiB (--image-size)")
    block = os.urandom(1 << 20)
    with open(path, "wb") as file:
        for _ in range(size >> 20):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())


def first_line(*words):
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return (done.stdout.splitlines() or ["?"])[0].strip()


def describe_machine(arguments):
    processor = "?"
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    filesystem = first_line("findmnt", "-n", "-o", "FSTYPE", "-T", str(ROOT))
    return {"date": datetime.date.today().isoformat(), "processor": processor,
            "cores": len(os.sched_getaffinity(0)), "kernel": platform.release(),
            "peer": first_line("qemu-storage-daemon", "--version").split("(")[0].strip(),
            "fio": first_line("fio", "--version"), "rounds": arguments.rounds,
            "seconds": arguments.seconds, "filesystem": f"the file is on {filesystem}"}


class Run:
    """All measurements of one call, in order. What fails is said, and the rest goes on."""

    def __init__(self, arguments, results, parties):
        self._arguments = arguments
        self._results = results
        self._parties = parties
        self.failures = 0

    def measure(self, chosen):
        targets = {row.target for row in chosen}
        with places(self._arguments, targets) as where:
            bench = measure.Bench(where, self._arguments.seconds, RAMP)
            for index, row in enumerate(chosen):
                say(f"[{index + 1}/{len(chosen)}] {row.name}")
                self._measure_row(bench, row)
                if not self._arguments.no_write:
                    self._results.save(RESULTS)
            if wants_idle(self._arguments.only):
                self._measure_idle(bench)

    def profile(self, chosen):
        with places(self._arguments, {row.target for _, row in chosen}) as where:
            bench = measure.Bench(where, self._arguments.seconds, RAMP)
            for title, row in chosen:
                say(f"profile of {row.name}")
                stages = self._attempt(self._parties[0], row, lambda: profile.profile(
                    bench, self._parties[0], row, where.programs / "guestio-blk", where.scratch))
                if stages:
                    self._results.profiles[row.name] = {"title": title, "stages": stages}

    def _measure_row(self, bench, row):
        present = [party for party in self._parties if party.takes(row)]
        self._results.begin(row)
        for turn in range(self._arguments.rounds):
            first = turn % len(present)
            for party in present[first:] + present[:first]:
                sample = self._attempt(party, row, lambda: bench.sample(party, row))
                # A failed one keeps its place: rounds are compared with each other.
                self._results.add(row, party.key, sample)
                if sample:
                    say(f"    {party.label:32} {sample['iops'] / 1000:9.1f} kIOPS  p99 "
                        f"{sample['p99_ns'] / 1000:8.1f} µs  {sample['cpu_ns'] / 1000:8.3f} µs/IO")
        for party in present:
            self._results.set_calls(
                row, party.key, self._attempt(party, row, lambda: bench.calls(party, row)))

    def _measure_idle(self, bench):
        row = rows.Row("null", "randread", 4 * rows.KIB, 1)
        for party in self._parties:
            if party.serves and party.takes(row):
                say(f"idle: {party.label}")
                self._results.idle[party.key] = self._attempt(
                    party, row, lambda: bench.idle(party, row, max(1, self._arguments.seconds * 5)))

    def _attempt(self, party, row, action):
        for last in (False, True):
            try:
                return action()
            except (BenchError, OSError, ValueError, KeyError) as error:
                # Once is chance: on a machine that others use, a moment may pass without a turn.
                say(f"    {row.name}, {party.label}: {'FAILED' if last else 'once more'}: {error}")
        self.failures += 1
        return None


def write_document(results, parties):
    if not DOCUMENT.exists():
        raise BenchError(f"{DOCUMENT} does not exist")
    everything = rows.all_rows()
    text = DOCUMENT.read_text(encoding="utf-8")
    for markers, part in ((markdown.FIGURES, markdown.section(results, everything, parties)),
                          (markdown.PROFILE, markdown.profile_section(results.profiles))):
        text = markdown.replace_between_markers(text, markers, part)
    DOCUMENT.write_text(text, encoding="utf-8")
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, svg in plots.all_plots(results, everything, parties).items():
        (IMAGES / name).write_text(svg, encoding="utf-8")
    say(f"wrote {DOCUMENT.relative_to(ROOT)} and docs/img/")


def bench(arguments):
    chosen = choose_rows(arguments.only)
    if arguments.list:
        print("\n".join([row.name for row in chosen] + [IDLE]))
        return 0
    parties = choose_contenders(arguments.variant)
    results = Results() if arguments.no_write else Results.load(RESULTS)
    failures = 0
    if not arguments.render:
        processes.require_tools("fio", "qemu-storage-daemon", "taskset", "setpriv")
        if shutil.which("perf") is None:
            processes.require_tools("strace")
        for name in ("guestio-blk", "guestio-load", "guestio-bench-raw-ring",
                     "guestio-bench-wake-up-floor"):
            if not (arguments.programs / name).exists():
                raise BenchError(f"{arguments.programs / name} is not there (./dev build)")
        run = Run(arguments, results, parties)
        if arguments.profile:
            profile.require_tools()
            run.profile(rows.profiled_rows())
            print(markdown.profile_section(results.profiles))
        else:
            results.machine.update(describe_machine(arguments))
            run.measure(chosen)
            print(markdown.section(results, chosen, parties))
        failures = run.failures
    if not arguments.no_write:
        results.save(RESULTS)
        write_document(results, parties)
    return 1 if failures else 0


def stop_on_signals():
    """Ctrl-C and SIGTERM clean up what was begun; a second one does not disturb that."""
    def on_signal(*_):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)


def main():
    stop_on_signals()
    try:
        return bench(parse_arguments(sys.argv[1:]))
    except BenchError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("stopped")
        return 130


if __name__ == "__main__":
    sys.exit(main())
