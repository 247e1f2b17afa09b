# SPDX-License-Identifier: MIT
"""Measured processes: started pinned to a core, observed, always terminated."""

import contextlib
import os
import shutil
import signal
import subprocess
import time


class BenchError(Exception):
    """An error for the user to fix, in one line."""


def require_tools(*names):
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        raise BenchError(
            f"not installed: {', '.join(missing)} (run ./dev setup bench)")


SO_ACCEPTCON = 0x10000  # include/linux/net.h: __SO_ACCEPTCON


def cores():
    """The server's core and the client's core; the same one on a single-core machine."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[1 % len(allowed)]


def start(core, words, **options):
    """Starts a program pinned to a core. It is killed when this process dies."""
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "taskset", "-c", str(core), *map(str, words)],
        stdin=subprocess.DEVNULL, text=True, start_new_session=True, **options)


def stop(process, first=signal.SIGTERM):
    """Terminates a process: signals it, waits up to 10 s, kills it."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.send_signal(first)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe:
            pipe.close()


@contextlib.contextmanager
def running(core, words, log):
    """Runs a program for the duration of the block, with its output in the file `log`."""
    with open(log, "w", encoding="utf-8") as output:
        process = start(core, words, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        stop(process)


def is_bound_only(path):
    """Whether the socket is bound but does not listen yet. Never true for guestio-blk, which links
    the path of a listening socket."""
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as sockets:
        return any(line.endswith(f" {path}\n") and f" {SO_ACCEPTCON:08X} " not in line
                   for line in sockets)  # fmt: skip


def wait_for_socket(path, process, log):
    deadline = time.monotonic() + 60
    while not os.path.exists(path) or is_bound_only(path):
        if process.poll() is not None or time.monotonic() > deadline:
            with open(log, encoding="utf-8") as output:
                raise BenchError(f"{process.args[6]} does not listen: {output.read().strip()}")
        time.sleep(0.005)


def finish(process, limit):
    """Waits for a client and returns its standard output."""
    try:
        output, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{process.args[6]}: still running after {limit:.0f} s") from None
    if process.returncode != 0:
        raise BenchError(f"{process.args[6]}: exit status {process.returncode}: "
                         f"{(errors or output).strip()}")
    return output


class CpuClock:
    """CPU time of a process, exited threads included, in nanoseconds."""

    def __init__(self, pid):
        # The clock id that clock_getcpuclockid(3) returns, which Python lacks: ~pid in the upper
        # bits, CPUCLOCK_SCHED (2) in the lower ones.
        self._clock = (~pid << 3) | 2

    def nanoseconds(self):
        return time.clock_gettime_ns(self._clock)


def context_switches(pid):
    """How often the threads of a process were scheduled in."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as file:
            total += int(file.read().split()[2])
    return total
