# SPDX-License-Identifier: MIT
"""Accuracy of the limits of guestio-blk: the work of ten seconds under a limit."""

import contextlib
import dataclasses
import json
import subprocess

from . import processes

KIB = 1024
MIB = 1024 * KIB


@dataclasses.dataclass(frozen=True)
class Load:
    """A closed loop of random reads on one disk."""
    block: int
    depth: int

    @property
    def text(self):
        size = f"{self.block // MIB} MiB" if self.block >= MIB else f"{self.block // KIB} KiB"
        return f"{size}, depth {self.depth}"


@dataclasses.dataclass(frozen=True)
class Case:
    limit: str  # name of the setting
    rate: int  # a second
    loads: tuple  # a disk of the group for each

    @property
    def title(self):
        return " and ".join(load.text for load in self.loads)


def all_cases():
    cases = [Case(limit, rate, (Load(block, depth),))
             for limit, rate in (("iops-total", 2000), ("bps-total", 16 * MIB))
             for depth in (1, 128) for block in (4 * KIB, MIB)]
    small, large = Load(4 * KIB, 32), Load(64 * KIB, 4)
    return cases + [Case("iops-total", 2000, (small, small)),
                    Case("iops-total", 2000, (small, large)),
                    Case("bps-total", 16 * MIB, (small, large))]


def measure(case, fixture, seconds):
    """The work of each disk, as a part of the limit. All of it counts from the first request on,
    with what a limit lets through at once."""
    server_core, client_core = processes.cores()
    log = fixture.scratch / "server.log"
    sockets = [fixture.scratch / f"limited-{index}" for index in range(len(case.loads))]
    words = [fixture.programs / "guestio-blk"]
    for socket in sockets:
        words += ["--disk", f"socket-path={socket},blk-file=null:1G,limit-group=bench,"
                  f"{case.limit}={case.rate}"]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(processes.running(server_core, words, log))
        for socket in sockets:
            processes.wait_for_socket(socket, server, log)
        clients = []
        for socket, load in zip(sockets, case.loads, strict=True):
            client = processes.start(
                client_core, [fixture.programs / "guestio-load", "run", "--socket-path", socket,
                              "--bs", load.block, "--iodepth", load.depth, "--runtime", seconds,
                              "--output-format", "json"],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            stack.callback(processes.stop, client)
            clients.append(client)
        outputs = [processes.finish(client, seconds + 120) for client in clients]
    parts = []
    for output, load in zip(outputs, case.loads, strict=True):
        iops = json.loads(output[output.index("{"):])["jobs"][0]["read"]["iops"]
        parts.append(iops * (load.block if case.limit.startswith("bps") else 1) / case.rate)
    return parts
