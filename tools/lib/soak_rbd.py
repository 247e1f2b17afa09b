# SPDX-License-Identifier: MIT
"""RBD images of a Ceph cluster under verified load, for soak_disks.py: the OSD is killed and stopped,
guestio-blk killed, fenced and replaced, images encrypted, a guest migrated. One cluster for all."""

import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
sys.path.insert(0, os.path.join(ROOT, "testing"))

from ceph_cluster import POOL, Cluster  # noqa: E402
from machine import Failure, wait_until  # noqa: E402

MIB = 1 << 20
# The OSD of a busy machine completes a thousand in about a second.
OPERATIONS = 1500


class Images:
    """Images of a cluster, and guestio-blk on them."""

    def __init__(self, soak, cluster):
        self.soak, self.cluster = soak, cluster

    def rbd(self, *words):
        """The program of that name."""
        done = subprocess.run(["rbd", "--conf", self.cluster.conf, *words], capture_output=True,
                              text=True, check=False)  # fmt: skip
        if done.returncode != 0:
            raise Failure(f"rbd {' '.join(words)}: {done.stderr}")
        return done.stdout

    def uri(self, name):
        return f"rbd:{POOL}/{name}?id=vm&conf={self.cluster.conf}"

    def create(self, name, mebibytes=32):
        self.rbd("create", "--size", f"{mebibytes}M", "--image-feature",
                 "layering,exclusive-lock", name)  # fmt: skip
        return self.uri(name)

    def serve(self, name, *options):
        return self.soak.backend(name, self.create(name), *options)

    def owner(self, name):
        """The address of the client that owns the lock."""
        owners = json.loads(self.rbd("lock", "list", "--format", "json", name))
        if len(owners) != 1:
            raise Failure(f"{name} has {len(owners)} owners")
        return owners[0]["address"]

    def under_load(self, backend, turns, act):
        done = self.soak.under_load(backend, turns, act, OPERATIONS)
        backend.stop()
        return done


def status(backend):
    return backend.ask("statistics")["disks"][0]["backend"]


def kills_of_the_backend(images, name, *load_options):
    """Every other backend is killed under load, the rest at any moment of their start. The lock of
    each is broken by the next: a start with a lock that is not broken fails."""
    soak, engine, starts = images.soak, random.Random(17), []
    backend = images.serve(name)
    load = soak.load(backend, OPERATIONS * (soak.rounds // 2 + 3), "--reconnect", *load_options)
    for turn in range(soak.rounds):
        if turn % 2 == 0:
            enough = backend.requests() + engine.randrange(1, OPERATIONS)
            wait_until("progress or the end of the load",
                       lambda: not load.is_running() or backend.requests() >= enough,
                       [backend.process])  # fmt: skip
        else:
            # Before it serves.
            backend.kill()
            backend.told = backend._size()
            backend.process = soak.workshop.start(backend.command, backend.log)
            lines = engine.randrange(0, 4)
            wait_until("lines of the start", lambda: backend.output().count("\n") >= lines,
                       [backend.process])  # fmt: skip
        if not load.is_running():
            load.finish()
            load = soak.load(backend, OPERATIONS * (soak.rounds // 2 + 3), "--reconnect",
                             *load_options)  # fmt: skip
        backend.kill()
        starts.append(backend.start())
    load.finish()
    backend.stop()
    return (f"guestio-blk killed {soak.rounds} times; from start to serving: median "
            f"{statistics.median(starts):.0f} ms, most {max(starts):.0f} ms")  # fmt: skip


def kills_of_the_osd(images):
    backend = images.serve("osd-killed")

    def kill():
        images.cluster.kill_osd()
        images.cluster.start_osd()

    turns = images.under_load(backend, max(1, images.soak.rounds // 5), kill)
    return f"the OSD killed {turns} times"


def stops_of_the_osd(images):
    backend = images.serve("osd-stopped", "--io-timeout", "1")

    def stop():
        line = "the cluster has not answered for 1 s"
        lines = backend.output().count(line)
        images.cluster.signal_osd(signal.SIGSTOP)
        try:
            wait_until("the stop is noticed", lambda: backend.output().count(line) > lines,
                       [backend.process])  # fmt: skip
        finally:
            images.cluster.signal_osd(signal.SIGCONT)
        wait_until("the OSD is back", lambda: status(backend)["available"], [backend.process])

    turns = images.under_load(backend, max(1, images.soak.rounds // 5), stop)
    return f"the OSD stopped beyond the I/O timeout {turns} times"


def fencing(images):
    backend = images.serve("fenced")

    def fence():
        before = status(backend)["reconnects"]
        images.cluster.fence(images.owner("fenced"))
        wait_until("the image is opened anew", lambda: status(backend)["reconnects"] > before and
                   status(backend)["available"], [backend.process])  # fmt: skip

    turns = images.under_load(backend, max(1, images.soak.rounds // 2), fence)
    return f"guestio-blk fenced {turns} times"


def takeovers(images):
    backend = images.serve("replaced")
    turns = images.under_load(backend, max(1, images.soak.rounds // 2), backend.take_over)
    return f"guestio-blk replaced in place {turns} times"


def encryption(images, kind):
    """Images formatted by librbd. The load survives a kill of guestio-blk."""
    name = f"encrypted-{kind}"
    key = os.path.join(images.soak.workshop.sockets, "key")
    with open(key, "w", encoding="utf-8") as file:
        file.write("open sesame")
    uri = images.create(name, 64)
    images.rbd("encryption", "format", name, kind, key)
    backend = images.soak.backend(name, uri, "--encryption", kind, "--key-file", key)
    load = images.soak.load(backend, 2 * OPERATIONS, "--reconnect")
    backend.wait_for_requests(OPERATIONS // 2, load.process)
    backend.kill()
    backend.start()
    load.finish()
    backend.stop()
    return None


def migration(images):
    """A guest between two guestio-blk on one image: no shared file system."""
    logs = images.soak.workshop.logs
    images.create("migrated", 256)
    rounds = max(1, images.soak.rounds // 10)
    done = subprocess.run(
        [os.path.join(ROOT, "tools", "guest", "migration_rbd_test.sh"),
         images.soak.program("guestio-blk"), logs, images.uri("migrated"),
         os.path.join(logs, "migrated.img"), str(rounds)],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)  # fmt: skip
    with open(os.path.join(logs, "migration.log"), "w", encoding="utf-8") as log:
        log.write(done.stdout + done.stderr)
    if done.returncode != 0:
        raise Failure(f"the migration failed: {(done.stderr or done.stdout)[-500:]}")
    return f"a guest migrated there and back {rounds} times"


def scenarios(soak):
    folder = tempfile.mkdtemp(prefix="guestio-ceph.", dir="/tmp")
    cluster = Cluster(os.path.join(folder, "cluster"))
    images = Images(soak, cluster)
    try:
        yield "kills-of-guestio-blk-split", lambda: kills_of_the_backend(images, "split")
        yield "kills-of-guestio-blk-packed", lambda: kills_of_the_backend(images, "packed", "--packed")
        yield "kills-of-the-osd", lambda: kills_of_the_osd(images)
        yield "stops-of-the-osd", lambda: stops_of_the_osd(images)
        yield "fencing", lambda: fencing(images)
        yield "takeovers", lambda: takeovers(images)
        yield "luks1", lambda: encryption(images, "luks1")
        yield "luks2", lambda: encryption(images, "luks2")
        yield "migration", lambda: migration(images)
    finally:
        cluster.close()
        shutil.rmtree(folder)
