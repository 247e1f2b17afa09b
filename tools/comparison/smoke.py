#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs tools/bench.py for one row on a small disk and checks its output. A ctest test.

Usage: smoke.py DIRECTORY (with guestio-blk and guestio-load)
"""

import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

BENCH = pathlib.Path(__file__).resolve().parent.parent / "bench.py"
NUMBER = r"[0-9][0-9 .]*"
SPREAD = rf"{NUMBER} \({NUMBER}–{NUMBER}\)"
PATIENCE = float(os.environ.get("GUESTIO_TEST_PATIENCE", "1"))
LINE = rf"\| %s \| %s \| {SPREAD} \|( {NUMBER} \|){{3}} {SPREAD} \| {NUMBER} \|"


class Outcome:
    """A completed run of bench.py."""

    def __init__(self, *words):
        with subprocess.Popen([sys.executable, BENCH, *words], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True) as child:
            self.stdout, self.stderr = child.communicate()
        self.pid = child.pid
        self.returncode = child.returncode


def is_mentioned(text):
    """Whether a process has the text on its command line."""
    return subprocess.run(["pgrep", "-f", text], capture_output=True, check=False).returncode == 0


def check_interrupted_run():
    """Interrupts a run; yields a line for a wrong exit status and for everything left behind."""
    with tempfile.TemporaryDirectory() as scratch:
        child = subprocess.Popen(
            [sys.executable, BENCH, "--programs", sys.argv[1], "--only", "null/randread-4k-d1",
             "--no-write", "--seconds", "30"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, env=os.environ | {"TMPDIR": scratch})
        for line in child.stderr:
            if line.startswith("[1/"):
                break
        child.send_signal(signal.SIGTERM)
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=180)
        if child.returncode != 130:
            yield f"interrupted run: exit status {child.returncode}"
        if os.listdir(scratch):
            yield f"interrupted run: leaves {os.listdir(scratch)}"
        # The socket path of every server and client is in that directory. A process that was being
        # started dies after its parent (PR_SET_PDEATHSIG).
        deadline = time.monotonic() + 60
        while is_mentioned(scratch):
            if time.monotonic() > deadline:
                yield "interrupted run: leaves processes"
                break
            time.sleep(0.05)


def main():
    done = Outcome("--programs", sys.argv[1], "--only", "tmpfs/randread-4k-d32-2q", "--only",
                   "tmpfs/randread-64k-d32-16seg", "--only", "idle",
                   "--rounds", "1", "--seconds", str(0.4 * PATIENCE), "--image-size", "16",
                   "--no-write")
    problems = [] if done.returncode == 0 else [f"status {done.returncode}"]
    for work in ("4 KiB read, depth 32, 2 queues", "64 KiB read, depth 32, 16 segments"):
        for server in ("guestio-blk", "qemu-storage-daemon, io_uring",
                       "qemu-storage-daemon, linux-aio", "raw ring"):
            if not re.search(LINE % (work, server), done.stdout):
                problems.append(f"no figures of {server} for {work!r}")
    if not re.search(r"\| guestio-blk \| [0-9.]+ µs in [0-9]+ s \| [0-9]+ \|", done.stdout):
        problems.append("no idle figures")
    for words, complaint in (((["--only", "nonsense"]), "no row"),
                             ((["--programs", "/nonexistent"]), "not built"),
                             ((["--rounds", "0"]), "--rounds")):
        refused = Outcome(*words, "--no-write")
        if refused.returncode == 0 or complaint not in refused.stderr:
            problems.append(f"{words} is not rejected: {refused.stderr}")
    problems += check_interrupted_run()
    left = list(pathlib.Path("/dev/shm").glob(f"guestio-bench-{done.pid}-*"))
    if left:
        problems.append(f"left behind: {left}")
    for problem in problems:
        print(problem)
    if problems:
        print(done.stdout, done.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
