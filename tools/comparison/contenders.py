# SPDX-License-Identifier: MIT
"""Who takes part: guestio-blk, qemu-storage-daemon, and the ring without anything around it."""

import dataclasses
import pathlib

from . import processes, rows


@dataclasses.dataclass(frozen=True)
class Places:
    """Where programs and disks are."""
    programs: pathlib.Path  # of a build of ours
    scratch: pathlib.Path  # sockets and logs
    images: dict  # target: path of the image
    image_bytes: int


class GuestioBlk:
    serves = True

    def __init__(self, key="guestio-blk", options=()):
        self.key = key
        self.label = key
        self._options = list(options)

    def takes(self, row):
        return True

    def command(self, row, places, socket):
        image = places.images.get(row.target, f"null:{places.image_bytes}")
        return [places.programs / "guestio-blk", "--socket-path", socket, "--blk-file", image,
                "--num-queues", row.queues, *self._options]


class AlwaysPolling(GuestioBlk):
    """As SPDK's vhost: the server's core belongs to it. Where a client polls as well."""

    def __init__(self, key):
        super().__init__(key, ["--poll", "always"])
        self.label = "guestio-blk --poll always"

    def takes(self, row):
        return row.target == "null" and row.poll and not row.growth


class StorageDaemon:
    serves = True

    def __init__(self, key, engine):
        self.key = key
        self.label = f"qemu-storage-daemon, {'linux-aio' if engine == 'native' else engine}"
        self._engine = engine

    def takes(self, row):
        # Its engines differ where the ring hands requests to worker threads: on tmpfs.
        return self._engine == "io_uring" or row.target == "tmpfs"

    def command(self, row, places, socket):
        if row.target == "null":
            disk = f"driver=null-co,node-name=d,size={places.image_bytes},read-zeroes=off"
        else:
            disk = (f"driver=file,node-name=d,filename={places.images[row.target]},"
                    f"cache.direct=on,aio={self._engine}")
        return ["qemu-storage-daemon", "--blockdev", disk, "--export",
                f"type=vhost-user-blk,id=e,node-name=d,addr.type=unix,addr.path={socket},"
                f"writable=on,num-queues={row.queues}"]


class RawRing:
    """io_uring on the same file, registered file and buffers, no guest and no server: fio, and
    bench/raw_ring.cc for requests in segments, which fio has not."""
    serves = False

    def __init__(self, key, batches):
        self.key = key
        self.label = "raw ring" + ("" if batches else ", one by one")
        self._batches = batches

    def takes(self, row):
        if row.target == "null":
            return False
        if not self._batches:
            return row.target == "ext4" and row.depth > 1 and row.block == 4 * rows.KIB \
                and row.queues == 1 and row.offset == 0 and row.segments == 1 and not row.poll
        # Direct I/O takes no odd addresses, except on tmpfs; nothing to compare with then.
        return row.offset % 512 == 0

    def command(self, row, places, seconds, ramp):
        if row.segments > 1:
            return [places.programs / "guestio-bench-raw-ring", places.images[row.target],
                    places.image_bytes, row.block, row.depth, row.segments, seconds, ramp]
        words = ["fio", "--name=raw", f"--filename={places.images[row.target]}",
                 f"--size={places.image_bytes}", f"--rw={row.rw}", f"--bs={row.block}",
                 f"--iodepth={row.depth}", f"--numjobs={row.queues}", "--group_reporting",
                 "--ioengine=io_uring", "--registerfiles=1", "--fixedbufs=1", "--direct=1",
                 "--thread", "--norandommap", "--time_based", f"--runtime={seconds * 1000:.0f}ms",
                 f"--ramp_time={ramp * 1000:.0f}ms", "--output-format=json"]
        if row.offset:
            words.append(f"--mem_align={row.offset}")
        if self._batches and row.depth > 1:
            words += [f"--iodepth_batch_submit={min(16, row.depth)}",
                      "--iodepth_batch_complete_min=1",
                      f"--iodepth_batch_complete_max={row.depth}"]
        return words


class WakeUpFloor:
    """bench/wake_up_floor.cc: a request, and an eventfd each way to a client that sleeps. What no
    backend can go below at depth 1, sleeping each time or looking for the next request."""
    serves = False

    def __init__(self, key, look):
        self.key = key
        self.label = "least: two eventfds and the ring" + (", looking" if look else "")
        self._look = look  # microseconds

    def takes(self, row):
        return row.target == "ext4" and row.depth == 1 and not row.poll and row.block == 4 * rows.KIB

    def command(self, row, places, seconds, ramp):
        _, client_core = processes.cores()
        return [places.programs / "guestio-bench-wake-up-floor", places.images[row.target],
                places.image_bytes, "write" if "write" in row.rw else "read", self._look, seconds,
                ramp, client_core]


OURS = "guestio-blk"
PEER = "qsd"
RAW = "raw"


def all_contenders():
    return [GuestioBlk(OURS), AlwaysPolling("always"), StorageDaemon(PEER, "io_uring"),
            StorageDaemon("qsd-aio", "native"), RawRing(RAW, True), RawRing("raw-single", False),
            WakeUpFloor("floor", 0), WakeUpFloor("floor-look", 32)]
