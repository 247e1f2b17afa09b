# SPDX-License-Identifier: MIT
"""One measurement of one contender under one workload."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time

from . import nbd, processes
from .processes import BenchError


FIO_STARTS_WITHIN = 0.4  # seconds


class Bench:
    """Measures with the server on one core and the client on the other.

    Both rates cover the same interval: the client counts requests, and the server's CPU clock is
    read near the start and the end of the interval.
    """

    def __init__(self, fixture, seconds, ramp):
        self._fixture = fixture
        self._seconds = seconds
        self._ramp = ramp
        self._server_core, self._client_core = processes.cores()
        self._log = fixture.scratch / "server.log"

    def sample(self, contender, row):
        """IOPS, completion latencies (ns) and the server's CPU time (ns/op)."""
        with self._loaded(contender, row, self._seconds) as (server, outcome):
            clock = processes.CpuClock(server)
            begin = (time.monotonic_ns(), clock.nanoseconds())
            time.sleep(self._seconds * 0.9)
            end = (time.monotonic_ns(), clock.nanoseconds())
        busy = (end[1] - begin[1]) / (end[0] - begin[0])
        result = outcome()
        result["cpu_ns"] = busy * 1e9 / result["iops"]
        return result

    def calls(self, contender, row):
        """System calls per op. Counting slows the server down, so this is a separate run. It counts
        over 90 % of the run because a disk may stall for a part of it."""
        seconds = 0.5
        with self._loaded(contender, row, seconds) as (server, outcome):
            counted = count_calls(server, seconds * 0.9)
        return counted / outcome()["iops"]

    def watch(self, contender, row, seconds, action):
        """Calls `action` with the pid of the server under load."""
        with self._loaded(contender, row, seconds) as (server, _):
            action(server)

    def idle(self, contender, row, seconds):
        """CPU time of a server with a connected, idle front-end."""
        socket = self._fresh_socket()
        words = contender.command(row, self._fixture, socket)
        with processes.running(self._server_core, words, self._log) as server:
            processes.wait_for_socket(socket, server, self._log)
            client = self._start_client(row, socket, 3600, 0)
            try:
                time.sleep(0.3)
                # A stopped client: requests in flight complete, and no new ones follow.
                client.send_signal(signal.SIGSTOP)
                time.sleep(1)
                clock = processes.CpuClock(server.pid)
                before = (clock.nanoseconds(), processes.context_switches(server.pid))
                time.sleep(seconds)
                after = (clock.nanoseconds(), processes.context_switches(server.pid))
            finally:
                processes.stop(client)
        return {"seconds": seconds, "cpu_ns": after[0] - before[0],
                "switches": after[1] - before[1]}

    def reconnects(self, contender, row, rounds):
        """Seconds from an NBD server listening again to its first I/O, one per restart."""
        self._fresh_socket()
        return nbd.reconnect_times(contender, row, self._fixture, self._start_client, rounds)

    def _fresh_socket(self):
        socket = self._fixture.scratch / "s"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(socket)
        return socket

    def _start_client(self, row, socket, seconds, ramp):
        words = [self._fixture.programs / "guestio-load", "run", "--socket-path", socket, "--rw",
                 row.rw, "--bs", row.block, "--iodepth", row.depth, "--numjobs", row.queues,
                 "--segments", row.segments, "--buffer-offset", row.offset, "--runtime", seconds,
                 "--ramp-time", ramp, "--output-format", "json"]
        return processes.start(self._client_core, words + (["--poll"] if row.poll else []),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    @contextlib.contextmanager
    def _loaded(self, contender, row, seconds):
        """Yields, after the ramp time, the pid of the process under load and a function returning
        the client's result. Call that function after the block."""
        with contextlib.ExitStack() as stack:
            ramp = self._ramp
            if contender.serves:
                socket = self._fresh_socket()
                words = contender.command(row, self._fixture, socket)
                server = stack.enter_context(
                    processes.running(self._server_core, words, self._log))
                processes.wait_for_socket(socket, server, self._log)
                client = self._start_client(row, socket, seconds, self._ramp)
                worker = server
            else:
                ramp = self._ramp + FIO_STARTS_WITHIN
                words = contender.command(row, self._fixture, seconds, ramp)
                client = processes.start(self._server_core, words, stdout=subprocess.PIPE,
                                         stderr=subprocess.PIPE)
                worker = client
            stack.callback(processes.stop, client)
            outputs = []
            time.sleep(ramp + seconds * 0.05)
            yield worker.pid, lambda: parse_outcome(outputs[0])
            outputs.append(processes.finish(client, seconds + 120))


def parse_outcome(output):
    """The figures of the JSON output, which guestio-load and fio share."""
    # fio may print warnings before the JSON.
    job = json.loads(output[output.index("{"):])["jobs"][0]
    done = max((job["read"], job["write"]), key=lambda direction: direction["iops"])
    if done["iops"] <= 0:
        raise BenchError("the client completed no request")
    percentile = done["clat_ns"]["percentile"]
    return {"iops": done["iops"], "p50_ns": percentile["50.000000"],
            "p99_ns": percentile["99.000000"], "p999_ns": percentile["99.900000"]}


def count_calls(pid, seconds):
    """System calls per second of a process, from perf where permitted, else from strace. strace
    slows the process down, which favours servers with large batches."""
    return perf_calls(pid, seconds) if can_perf() else strace_calls(pid, seconds)


_can_perf = None


def can_perf():
    global _can_perf  # cached
    if _can_perf is None:
        _can_perf = shutil.which("perf") is not None and subprocess.run(
            ["perf", "stat", "-e", "raw_syscalls:sys_enter", "true"],
            capture_output=True, check=False).returncode == 0
    return _can_perf


def perf_calls(pid, seconds):
    done = subprocess.run(
        ["perf", "stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", str(pid), "--", "sleep",
         str(seconds)], capture_output=True, text=True, check=False)
    for line in done.stderr.splitlines():
        fields = line.split(",")
        if len(fields) > 3 and fields[2].startswith("raw_syscalls") and fields[0].isdigit():
            return int(fields[0]) / seconds
    raise BenchError(f"perf counted nothing: {done.stderr.strip()}")


def strace_calls(pid, seconds):
    tracer = subprocess.Popen(["strace", "-f", "-c", "-p", str(pid)], text=True,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    tracer.stderr.readline()  # "attached"; an earlier SIGINT would kill strace
    time.sleep(seconds)
    tracer.send_signal(signal.SIGINT)
    _, table = tracer.communicate(timeout=120)
    for line in table.splitlines():
        fields = line.split()
        if fields and fields[-1] == "total":
            return int(fields[3]) / seconds  # % time, seconds, usecs/call, calls, errors
    raise BenchError(f"strace counted nothing: {table.strip()}")
