#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Compares guestio-blk with qemu-storage-daemon and with the raw device: `./dev bench`.

A row is one workload on one kind of disk. Each round measures every contender once, in rotating
order, with the server on one core and the client on another. Results accumulate in
build/bench/results.json. docs/performance.md and docs/img/ are rendered from that file, so rows can
be measured in separate runs.
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

from comparison import contenders, limits, markdown, measure, nbd, plots, processes, profile, rbd, rows
from comparison.processes import BenchError
from comparison.results import Results

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "performance.md"
IMAGES = ROOT / "docs" / "img"
RESULTS = ROOT / "build" / "bench" / "results.json"
IDLE = "idle"  # --only name of the idle measurement, which is not a row
LIMITS = "limits"  # the same of the accuracy of limits
LIMITED_SECONDS = 10
RECONNECT = "nbd/reconnect"  # the same of the restarts of an NBD server
RESTARTS = 16
MANY_IMAGES = "rbd/32-images"  # that of many images in one process
RAMP = 0.2  # ramp time in seconds


def parse_arguments(words):
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__.split("\n\n")[0],
                                     epilog=__doc__.split("\n\n")[1])
    parser.add_argument("--rounds", type=positive(int), metavar="N",
                        help="rounds per row; the tables show their median (3)")
    parser.add_argument("--seconds", type=positive(float), metavar="SECONDS",
                        help="duration of one measurement (0.8)")
    parser.add_argument("--quick", action="store_true",
                        help="smoke test: one round of 0.3 s")
    parser.add_argument("--only", action="append", metavar="ROW", default=[],
                        help="only the row of this name, or all rows with ROW in their name (may be "
                        "repeated, or several with commas; see --list)")
    parser.add_argument("--no-write", action="store_true",
                        help="print the tables; write no document and no results")
    parser.add_argument("--render", action="store_true",
                        help="measure nothing; render the document from the stored results")
    parser.add_argument("--profile", action="store_true",
                        help="profile guestio-blk by request stage with perf instead of comparing")
    parser.add_argument("--list", action="store_true", help="print the row names")
    parser.add_argument("--variant", action="append", metavar="NAME=OPTIONS", default=[],
                        help="add guestio-blk with these options as a contender (may be repeated)")
    parser.add_argument("--programs", type=pathlib.Path, metavar="PATH",
                        default=ROOT / "build" / "release" / "bin",
                        help="directory of guestio-blk and guestio-load (build/release/bin)")
    parser.add_argument("--image-size", type=positive(int), metavar="MIB", default=1024,
                        help="size of each disk in MiB (1024)")
    arguments = parser.parse_args(words)
    arguments.only = [name for names in arguments.only for name in names.split(",")]
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
    """All rows, or the rows selected by full name or by substring."""
    everything = rows.all_rows()
    full_names = {row.name for row in everything}

    def matches(row):
        return any(text == row.name if text in full_names else text in row.name for text in only)

    chosen = [row for row in everything if not only or matches(row)]
    others = is_selected(IDLE, only) or is_selected(LIMITS, only)
    if not chosen and not others and not any(
            is_server_selected(name, only) for name in (RECONNECT, MANY_IMAGES)):
        raise BenchError(f"no row matches {' or '.join(map(repr, only))} (see --list)")
    return chosen


def is_selected(name, only):
    """Of a measurement that is not a row."""
    return not only or name in only


def is_server_selected(name, only):
    """Of a measurement with a server, by a part of its name as well."""
    return not only or any(text in name for text in only)


def choose_contenders(variants):
    parties = contenders.all_contenders()
    for variant in variants:
        name, equals, options = variant.partition("=")
        if not name or not equals:
            raise BenchError(f"--variant {variant}: expected NAME=OPTIONS")
        parties.append(contenders.GuestioBlk(name, shlex.split(options)))
    return parties


def log(text):
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def fixture(arguments, targets):
    """Temporary directories and filled images, removed on exit."""
    build = ROOT / "build" / "bench"
    build.mkdir(parents=True, exist_ok=True)
    size = arguments.image_size << 20
    prefix = f"guestio-bench-{os.getpid()}-"
    with contextlib.ExitStack() as stack:
        # sun_path holds 108 bytes; the path of the build directory may be longer.
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix))
        images = {}
        for target, parent in (("ext4", build), ("tmpfs", pathlib.Path("/dev/shm"))):
            if target in targets:
                directory = stack.enter_context(
                    tempfile.TemporaryDirectory(prefix=prefix, dir=parent))
                images[target] = pathlib.Path(directory) / "disk.img"
                log(f"filling {images[target]} ({arguments.image_size} MiB)")
                fill(images[target], size)
        if nbd.TARGET in targets:
            log(f"filling an NBD server's memory ({arguments.image_size} MiB)")
            server = stack.enter_context(nbd.serving(pathlib.Path(scratch), size))
            images[nbd.TARGET] = server.uri
        if rbd.TARGET in targets:
            log(f"filling an RBD image ({arguments.image_size} MiB)")
            images[rbd.TARGET] = stack.enter_context(rbd.serving(size))
        yield contenders.Fixture(arguments.programs, pathlib.Path(scratch), images, size)


def fill(path, size):
    """Writes an image without holes, of incompressible bytes."""
    free = shutil.disk_usage(path.parent).free
    if free < size + (64 << 20):
        raise BenchError(f"{path.parent}: {free >> 20} MiB free, too little for a disk of "
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
    """All measurements of one invocation, in order. A failure is logged; the others continue."""

    def __init__(self, arguments, results, parties):
        self._arguments = arguments
        self._results = results
        self._parties = parties
        self.failures = 0

    def measure(self, chosen):
        targets = {row.target for row in chosen}
        with fixture(self._arguments, targets) as fix:
            bench = measure.Bench(fix, self._arguments.seconds, RAMP)
            for index, row in enumerate(chosen):
                log(f"[{index + 1}/{len(chosen)}] {row.name}")
                self._measure_row(bench, row)
                if not self._arguments.no_write:
                    self._results.save(RESULTS)
            if is_selected(IDLE, self._arguments.only):
                self._measure_idle(bench)
            if is_selected(LIMITS, self._arguments.only):
                self._measure_limits(fix)
        # Its servers have the socket of the rows' server.
        if is_server_selected(RECONNECT, self._arguments.only):
            with fixture(self._arguments, set()) as fix:
                self._measure_reconnects(measure.Bench(fix, self._arguments.seconds, RAMP))
        if is_server_selected(MANY_IMAGES, self._arguments.only):
            with fixture(self._arguments, set()) as fix:
                self._measure_many_images(fix)

    def profile(self, chosen):
        with fixture(self._arguments, {row.target for _, row in chosen}) as fix:
            bench = measure.Bench(fix, self._arguments.seconds, RAMP)
            for title, row in chosen:
                log(f"profile of {row.name}")
                stages = self._attempt(self._parties[0], row, lambda: profile.profile(
                    bench, self._parties[0], row, fix.programs / "guestio-blk", fix.scratch))
                if stages:
                    self._results.profiles[row.name] = {"title": title, "stages": stages}

    def _measure_row(self, bench, row):
        present = [party for party in self._parties if party.supports(row)]
        self._results.begin(row)
        for turn in range(self._arguments.rounds):
            first = turn % len(present)
            for party in present[first:] + present[:first]:
                sample = self._attempt(party, row, lambda: bench.sample(party, row))
                # A failed sample keeps its position: ratios pair samples of the same round.
                self._results.add(row, party.key, sample)
                if sample:
                    log(f"    {party.label:32} {sample['iops'] / 1000:9.1f} kIOPS  p99 "
                        f"{sample['p99_ns'] / 1000:8.1f} µs  {sample['cpu_ns'] / 1000:8.3f} µs/op")
        for party in present:
            self._results.set_calls(
                row, party.key, self._attempt(party, row, lambda: bench.calls(party, row)))

    def _measure_idle(self, bench):
        row = rows.Row("null", "randread", 4 * rows.KIB, 1)
        for party in self._parties:
            if party.serves and party.supports(row):
                log(f"idle: {party.label}")
                self._results.idle[party.key] = self._attempt(
                    party, row, lambda: bench.idle(party, row, max(1, self._arguments.seconds * 5)))

    def _measure_reconnects(self, bench):
        log(f"{RECONNECT}: {RESTARTS} restarts")
        row = rows.Row(nbd.TARGET, "randread", 4 * rows.KIB, 1)
        times = self._attempt(self._parties[0], row, lambda: bench.reconnects(
            self._parties[0], row, RESTARTS))
        if times:
            self._results.reconnects = times

    def _measure_limits(self, fix):
        seconds = 2 if self._arguments.quick else LIMITED_SECONDS
        self._results.limits.clear()
        for case in limits.all_cases():
            try:
                parts = limits.measure(case, fix, seconds)
            except (BenchError, OSError, ValueError, KeyError) as error:
                log(f"    {case.limit}, {case.title}: FAILED: {error}")
                self.failures += 1
                continue
            limit = f"{case.limit} {case.rate}"
            log(f"    {limit:22} {case.title:44} {' and '.join(f'{part:.4f}' for part in parts)}")
            self._results.limits.append({"limit": limit, "work": case.title, "parts": parts})

    def _measure_many_images(self, fix):
        log(MANY_IMAGES)
        row = rows.Row(rbd.TARGET, "randread", 4 * rows.KIB, rbd.DEPTH)
        result = self._attempt(self._parties[0], row, lambda: rbd.many_images(
            fix, self._arguments.seconds, RAMP, self._arguments.rounds))
        if result:
            self._results.many_images = result

    def _attempt(self, party, row, action):
        for last in (False, True):
            try:
                return action()
            except (BenchError, OSError, ValueError, KeyError) as error:
                # One retry: on a busy machine a measurement may get no processor time.
                log(f"    {row.name}, {party.label}: {'FAILED' if last else 'retrying'}: {error}")
        self.failures += 1
        return None


def write_document(results, parties):
    if not DOCUMENT.exists():
        raise BenchError(f"{DOCUMENT}: no such file")
    everything = rows.all_rows()
    text = DOCUMENT.read_text(encoding="utf-8")
    for markers, part in ((markdown.FIGURES, markdown.section(results, everything, parties)),
                          (markdown.PROFILE, markdown.profile_section(results.profiles))):
        text = markdown.replace_between_markers(text, markers, part)
    DOCUMENT.write_text(text, encoding="utf-8")
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, svg in plots.all_plots(results, everything, parties).items():
        (IMAGES / name).write_text(svg, encoding="utf-8")
    log(f"wrote {DOCUMENT.relative_to(ROOT)} and docs/img/")


def bench(arguments):
    chosen = choose_rows(arguments.only)
    if arguments.list:
        print("\n".join([row.name for row in chosen] + [RECONNECT, MANY_IMAGES, IDLE, LIMITS]))
        return 0
    parties = choose_contenders(arguments.variant)
    results = Results() if arguments.no_write else Results.load(RESULTS)
    failures = 0
    if not arguments.render:
        programs = ["guestio-blk", "guestio-load"]
        processes.require_tools("fio", "qemu-storage-daemon", "taskset", "setpriv", "nbdkit",
                                "nbdcopy")
        if chosen or is_selected(IDLE, arguments.only):
            programs += ["guestio-bench-raw-ring", "guestio-bench-wake-up-floor"]
            if shutil.which("perf") is None:
                processes.require_tools("strace")
        for name in programs:
            if not (arguments.programs / name).exists():
                raise BenchError(f"{arguments.programs / name}: not built (./dev build)")
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
    """SIGINT and SIGTERM run the cleanup; further signals are ignored meanwhile."""
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
        log(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        log("interrupted")
        return 130


if __name__ == "__main__":
    sys.exit(main())
