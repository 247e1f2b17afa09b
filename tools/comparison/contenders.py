# SPDX-License-Identifier: MIT
"""The contenders: guestio-blk, qemu-storage-daemon, a bare io_uring ring, and clients of NBD and RBD."""

import dataclasses
import pathlib

from . import nbd, processes, rbd, rows


@dataclasses.dataclass(frozen=True)
class Fixture:
    """Paths of programs and disks."""
    programs: pathlib.Path  # our build's binaries
    scratch: pathlib.Path  # sockets and logs
    images: dict  # target: path of the image
    image_bytes: int


class GuestioBlk:
    serves = True

    def __init__(self, key="guestio-blk", options=()):
        self.key = key
        self.label = key
        self._options = list(options)

    def supports(self, row):
        return True

    def command(self, row, fixture, socket):
        image = fixture.images.get(row.target, f"null:{fixture.image_bytes}")
        return [fixture.programs / "guestio-blk", "--socket-path", socket, "--blk-file", image,
                "--num-queues", row.queues, *self._options]


class AlwaysPolling(GuestioBlk):
    """Busy-polls like SPDK's vhost target. Only for polling clients."""

    def __init__(self, key):
        super().__init__(key, ["--poll", "always"])
        self.label = "guestio-blk --poll always"

    def supports(self, row):
        return row.target == "null" and row.poll and not row.growth


class StorageDaemon:
    serves = True

    def __init__(self, key, engine):
        self.key = key
        self.label = f"qemu-storage-daemon, {'linux-aio' if engine == 'native' else engine}"
        self._engine = engine

    def supports(self, row):
        # The engines differ only where io_uring punts to worker threads: on tmpfs.
        return self._engine == "io_uring" or row.target == "tmpfs"

    def command(self, row, fixture, socket):
        if row.target == "null":
            disk = f"driver=null-co,node-name=d,size={fixture.image_bytes},read-zeroes=off"
        elif row.target == nbd.TARGET:
            path = fixture.images[row.target].partition("socket=")[2]
            disk = f"driver=nbd,node-name=d,server.type=unix,server.path={path}"
        elif row.target == rbd.TARGET:
            disk = rbd.daemon_disk(fixture.images[row.target])
        else:
            disk = (f"driver=file,node-name=d,filename={fixture.images[row.target]},"
                    f"cache.direct=on,aio={self._engine}")
        return ["qemu-storage-daemon", "--blockdev", disk, "--export",
                f"type=vhost-user-blk,id=e,node-name=d,addr.type=unix,addr.path={socket},"
                f"writable=on,num-queues={row.queues}"]


class RawRing:
    """io_uring on the same file with registered file and buffers, without guest and server: fio, or
    bench/raw_ring.cc for vectored requests, which fio lacks."""
    serves = False

    def __init__(self, key, batches):
        self.key = key
        self.label = "raw ring" + ("" if batches else ", unbatched")
        self._batches = batches

    def supports(self, row):
        if row.target in ("null", nbd.TARGET, rbd.TARGET):
            return False
        if not self._batches:
            return row.target == "ext4" and row.depth > 1 and row.block == 4 * rows.KIB \
                and row.queues == 1 and row.offset == 0 and row.segments == 1 and not row.poll
        # Direct I/O needs aligned addresses except on tmpfs, so misaligned rows have no raw figure.
        return row.offset % 512 == 0

    def command(self, row, fixture, seconds, ramp):
        if row.segments > 1:
            return [fixture.programs / "guestio-bench-raw-ring", fixture.images[row.target],
                    fixture.image_bytes, row.block, row.depth, row.segments, seconds, ramp]
        words = ["fio", "--name=raw", f"--filename={fixture.images[row.target]}",
                 f"--size={fixture.image_bytes}", f"--rw={row.rw}", f"--bs={row.block}",
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
    """bench/wake_up_floor.cc: one request and an eventfd in each direction to a sleeping client.
    The lower bound of any backend at depth 1, either sleeping after each request or polling."""
    serves = False

    def __init__(self, key, poll_us):
        self.key = key
        self.label = "floor: two eventfds and the ring" + (", polling" if poll_us else "")
        self._poll_us = poll_us

    def supports(self, row):
        return row.target == "ext4" and row.depth == 1 and not row.poll and row.block == 4 * rows.KIB

    def command(self, row, fixture, seconds, ramp):
        _, client_core = processes.cores()
        return [fixture.programs / "guestio-bench-wake-up-floor", fixture.images[row.target],
                fixture.image_bytes, "write" if "write" in row.rw else "read", self._poll_us,
                seconds, ramp, client_core]


OURS = "guestio-blk"
PEER = "qsd"
RAW = "raw"
FIO_NBD = "fio-nbd"
NBDCOPY = "nbdcopy"
FIO_RBD = "fio-rbd"


def all_contenders():
    return [GuestioBlk(OURS), AlwaysPolling("always"), StorageDaemon(PEER, "io_uring"),
            StorageDaemon("qsd-aio", "native"), RawRing(RAW, True), RawRing("raw-single", False),
            WakeUpFloor("floor", 0), WakeUpFloor("floor-look", 32), nbd.Fio(FIO_NBD),
            nbd.NbdCopy(NBDCOPY), rbd.Fio(FIO_RBD)]
