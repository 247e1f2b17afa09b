# SPDX-License-Identifier: MIT
"""The NBD server of the comparison, its contenders without a guest, and the time to reconnect."""

import contextlib
import datetime
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import time

from . import processes, rows
from .processes import BenchError

TARGET = "nbd"
REQUEST = 256 * rows.KIB  # bytes of nbdcopy's requests


class Server:
    """nbdkit with a disk in memory at a Unix socket."""

    def __init__(self, folder, size, filters=(), parameters=()):
        self.socket = folder / "nbd.sock"
        self.uri = f"nbd+unix:///?socket={self.socket}"
        self._pid_file = folder / "nbd.pid"
        self._log = folder / "nbd.log"
        self._words = ["nbdkit", "-f", "--unix", self.socket, "--pidfile", self._pid_file, *filters,
                       "memory", size, *parameters]
        self._process = None

    def start(self):
        """Returns the time at which it listens."""
        for path in (self.socket, self._pid_file):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        # On the client's core: the server's core is the contender's own.
        with open(self._log, "a", encoding="utf-8") as output:
            self._process = processes.start(processes.cores()[1], self._words, stdout=output,
                                            stderr=subprocess.STDOUT)
        # The file appears after listen().
        while not self._pid_file.exists():
            if self._process.poll() is not None:
                raise BenchError(f"nbdkit does not start: {self._log.read_text('utf-8').strip()}")
            time.sleep(0.0002)
        return time.time()

    def stop(self, number=signal.SIGTERM):
        if self._process is not None:
            processes.stop(self._process, number)

    def fill(self, size):
        """Writes all of it: the plugin has no memory of unwritten pages."""
        subprocess.run(["fio", "--name=fill", "--ioengine=nbd", f"--uri={self.uri}", "--rw=write",
                        "--bs=1M", "--iodepth=4", f"--size={size}", "--thread"], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextlib.contextmanager
def serving(folder, size):
    """A filled server for the duration of the block."""
    server = Server(folder, size)
    try:
        server.start()
        server.fill(size)
        yield server
    finally:
        server.stop()


class Fio:
    """fio's NBD engine: client and driver in one process, on the server's core."""
    serves = False

    def __init__(self, key):
        self.key = key
        self.label = "fio --ioengine=nbd"

    def supports(self, row):
        return row.target == TARGET

    def command(self, row, fixture, seconds, ramp):
        return ["fio", "--name=nbd", "--ioengine=nbd", f"--uri={fixture.images[TARGET]}",
                f"--size={fixture.image_bytes}", f"--rw={row.rw}", f"--bs={row.block}",
                f"--iodepth={row.depth}", "--thread", "--norandommap", "--time_based",
                f"--runtime={seconds * 1000:.0f}ms", f"--ramp_time={ramp * 1000:.0f}ms",
                "--output-format=json"]


class NbdCopy:
    """nbdcopy from the server to nowhere, again and again."""
    serves = False

    def __init__(self, key):
        self.key = key
        self.label = "nbdcopy"

    def supports(self, row):
        return row.target == TARGET and row.rw == "read" and row.block == REQUEST

    def command(self, row, fixture, seconds, ramp):
        return [sys.executable, pathlib.Path(__file__).with_name("copy_repeatedly.py"),
                fixture.images[TARGET], fixture.image_bytes, REQUEST, seconds + ramp]


def first_read(log, since):
    """The time of the first completed read after `since` in nbdkit's log; None without one."""
    for line in log.read_text(encoding="utf-8").splitlines():
        found = re.match(r"(\S+ \S+) .*\.\.\.Read .*return=0", line)
        if found:
            at = datetime.datetime.fromisoformat(found[1]).timestamp()
            if at > since:
                return at
    return None


def reconnect_times(contender, row, fixture, start_client, rounds):
    """Seconds from the server listening again to the first I/O served, one per round."""
    log = fixture.scratch / "nbdkit-requests.log"
    server = Server(fixture.scratch, fixture.image_bytes, ["--filter=log"],
                    [f"logfile={log}", "logappend=true"])
    images = fixture.images | {TARGET: server.uri}
    socket = fixture.scratch / "s"
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        server.start()
        words = contender.command(row, type(fixture)(fixture.programs, fixture.scratch, images,
                                                     fixture.image_bytes), socket)
        blk_log = fixture.scratch / "server.log"
        process = stack.enter_context(processes.running(processes.cores()[0], words, blk_log))
        processes.wait_for_socket(socket, process, blk_log)
        client = start_client(row, socket, 3600, 0)
        stack.callback(processes.stop, client)
        times = []
        for turn in range(rounds):
            server.stop(signal.SIGKILL)
            # From short absences to long ones.
            time.sleep(0.02 * 2 ** (turn % 8))
            log.write_text("", encoding="utf-8")
            since = server.start()
            deadline = time.monotonic() + 30
            while (served := first_read(log, since)) is None:
                if time.monotonic() > deadline:
                    raise BenchError(f"no read within 30 s: {blk_log.read_text('utf-8').strip()}")
                time.sleep(0.01)
            times.append(served - since)
    return times


def reconnect_lines(times):
    """The table of reconnect_times()."""
    if not times:
        return []
    in_ms = sorted(1000 * value for value in times)
    return ["", "nbdkit is killed and started again; from listening to the first I/O served, in ms:",
            "", "| restarts | median | longest |", "| ---: | ---: | ---: |",
            f"| {len(in_ms)} | {statistics.median(in_ms):.1f} | {in_ms[-1]:.1f} |"]
