#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Disks behind real servers, at length: `./dev soak disks`.

Usage: soak_disks.py PROGRAMS SCRATCH ROUNDS [SECTION...]

PROGRAMS is the folder of guestio-blk, guestio-load and program_test. A section is a module
soak_SECTION beside this file with a function scenarios(soak), which yields names and functions. Each
scenario has a folder of logs in SCRATCH and runs to its end; the next one follows after a failure.
"""

import importlib
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "guest"))

from machine import Backend, Failure, Workshop, wait_until  # noqa: E402

SECTIONS = [name for name in ("format", "nbd", "rbd") if os.path.exists(os.path.join(HERE, f"soak_{name}.py"))]


class Load:
    """guestio-load verify on a backend."""

    def __init__(self, workshop, program, backend, operations, *options, seed=21):
        self.workshop, self.log = workshop, f"load-{backend.name}.log"
        self.process = workshop.start(
            [program, "verify", "--socket-path", backend.socket, "--numjobs", "2", "--iodepth", "32",
             "--timeout", "120", "--seed", str(seed), "--ops", str(operations), *options], self.log)  # fmt: skip

    def is_running(self):
        return self.process.poll() is None

    def finish(self):
        wait_until("the load ends", lambda: not self.is_running())
        if self.process.returncode != 0:
            with open(os.path.join(self.workshop.logs, self.log), encoding="utf-8") as log:
                raise Failure(f"guestio-load ended with {self.process.returncode}: {log.read()}")


class Soak:
    """What a scenario is made with: processes, logs, programs, the number of rounds."""

    def __init__(self, programs, rounds):
        self.programs, self.rounds = programs, rounds
        self.workshop = None  # of the scenario

    def program(self, name):
        return os.path.join(self.programs, name)

    def backend(self, name, image, *options):
        """A running guestio-blk with two queues."""
        backend = Backend(self.workshop, self.program("guestio-blk"), name, image, "--num-queues", "2",
                          *options)  # fmt: skip
        backend.start()
        return backend

    def load(self, backend, operations, *options, **more):
        return Load(self.workshop, self.program("guestio-load"), backend, operations, *options, **more)

    def under_load(self, backend, turns, act, operations_per_turn=4000):
        """Calls `act` once per turn while verified load runs. The load notices nothing: it fails
        where the backend ends. Returns the number of turns."""
        load = self.load(backend, operations_per_turn * (turns + 2))
        done = 0
        while done < turns:
            enough = backend.requests() + operations_per_turn // 2
            wait_until("progress or the end of the load",
                       lambda: not load.is_running() or backend.requests() >= enough,
                       [backend.process])  # fmt: skip
            if not load.is_running():
                load.finish()
                load = self.load(backend, operations_per_turn * (turns - done + 2))
                continue
            act()
            done += 1
        load.finish()
        return done

    def run(self, name, scenario, logs):
        """Returns whether it passed."""
        since = time.monotonic()
        self.workshop = Workshop(logs)
        try:
            outcome = scenario()
            print(f"    {name}: {outcome or 'passed'}, {time.monotonic() - since:.0f} s", flush=True)
            return True
        except (Failure, OSError) as failure:
            print(f"    {name}: FAILED: {failure}; logs are in {logs}", flush=True)
            return False
        finally:
            self.workshop.end()


def main(words):
    if len(words) < 3 or not words[2].isdigit() or int(words[2]) == 0:
        print(__doc__.split("\n\n")[1], file=sys.stderr)
        return 2
    programs, scratch, rounds, *sections = words
    unknown = [name for name in sections if name not in SECTIONS]
    if unknown:
        print(f"error: no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}", file=sys.stderr)
        return 2
    soak = Soak(programs, int(rounds))
    failed = []
    for section in sections or SECTIONS:
        print(f"==> Soak: {section}", flush=True)
        for name, scenario in importlib.import_module(f"soak_{section}").scenarios(soak):
            if not soak.run(name, scenario, os.path.join(scratch, section, name)):
                failed.append(f"{section}/{name}")
    if failed:
        print(f"error: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
