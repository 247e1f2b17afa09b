# SPDX-License-Identifier: MIT
"""Processes that are measured: started on a core of their own, watched, and ended for certain."""

import contextlib
import os
import shutil
import signal
import subprocess
import time


class BenchError(Exception):
    """What a person can mend, in one line."""


def require_tools(*names):
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        raise BenchError(
            f"not installed: {', '.join(missing)} (./dev setup bench installs what is needed)")


SO_ACCEPTCON = 0x10000  # include/linux/net.h: __SO_ACCEPTCON


def cores():
    """The server's core and the client's: different ones where there are two."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[1 % len(allowed)]


def start(core, words, **options):
    """Starts a program on a core. It dies with this process, however that ends."""
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "taskset", "-c", str(core), *map(str, words)],
        stdin=subprocess.DEVNULL, text=True, start_new_session=True, **options)


def stop(process, first=signal.SIGTERM):
    """Ends a process of ours: asks, waits a little, kills."""
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
    """A program as long as the block lasts; what it says goes into the file `log`."""
    with open(log, "w", encoding="utf-8") as to:
        process = start(core, words, stdout=to, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        stop(process)


def is_about_to_listen(path):
    """Whether the socket is bound and takes no connections yet. guestio-blk's never is: it gets its
    path when it listens."""
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as sockets:
        return any(line.endswith(f" {path}\n") and f" {SO_ACCEPTCON:08X} " not in line
                   for line in sockets)  # fmt: skip


def wait_for_socket(path, process, log):
    deadline = time.monotonic() + 60
    while not os.path.exists(path) or is_about_to_listen(path):
        if process.poll() is not None or time.monotonic() > deadline:
            with open(log, encoding="utf-8") as said:
                raise BenchError(f"{process.args[6]} does not listen: {said.read().strip()}")
        time.sleep(0.005)


def finish(process, limit):
    """Waits for a client and returns what it printed."""
    try:
        output, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{process.args[6]} did not end within {limit:.0f} s") from None
    if process.returncode != 0:
        raise BenchError(f"{process.args[6]} failed: {(errors or output).strip()}")
    return output


class ProcessorClock:
    """Processor time of a process, all threads that it has and had, to the nanosecond."""

    def __init__(self, pid):
        # The kernel's name for that clock (clock_getcpuclockid(3), which Python lacks): the
        # complement of the process in the upper bits, 2 for "as the scheduler counts".
        self._clock = (~pid << 3) | 2

    def nanoseconds(self):
        return time.clock_gettime_ns(self._clock)


def switches(pid):
    """How often the threads of a process were put on a core."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as file:
            total += int(file.read().split()[2])
    return total
