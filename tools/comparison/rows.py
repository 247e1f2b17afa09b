# SPDX-License-Identifier: MIT
"""The rows of the comparison: one workload on one kind of disk each."""

import dataclasses

KIB = 1024
TARGETS = ("null", "ext4", "tmpfs", "nbd", "rbd")


@dataclasses.dataclass(frozen=True)
class Row:
    target: str  # one of TARGETS; "ext4" stands for the file system of build/
    rw: str  # fio's --rw
    block: int  # block size in bytes (fio's --bs)
    depth: int  # iodepth of each queue
    offset: int = 0  # misalignment of the data buffer in bytes
    segments: int = 1  # data descriptors per request
    queues: int = 1
    poll: bool = False  # the client busy-polls the used ring
    growth: bool = False  # scaling row, absent from the comparison tables

    @property
    def workload(self):
        """The workload without its target, as one word: randread-4k-d32."""
        parts = [self.rw, f"{self.block // KIB}k", f"d{self.depth}"]
        if self.offset:
            parts.append(f"off{self.offset}")
        if self.segments > 1:
            parts.append(f"{self.segments}seg")
        if self.queues > 1:
            parts.append(f"{self.queues}q")
        if self.poll:
            parts.append("poll")
        return "-".join(parts)

    @property
    def name(self):
        return f"{self.target}/{self.workload}"


def null_rows():
    """The request path without a disk."""
    for poll in (True, False):
        for depth in (1, 32, 128):
            yield Row("null", "randread", 4 * KIB, depth, poll=poll)
    yield Row("null", "randwrite", 4 * KIB, 32, poll=True)
    yield Row("null", "randread", 64 * KIB, 32, segments=16, poll=True)
    yield Row("null", "randread", 4 * KIB, 32, queues=2)


def file_rows(target):
    for rw in ("randread", "randwrite"):
        for depth in (1, 32, 128):
            yield Row(target, rw, 4 * KIB, depth)
    # A polling client needs no wake-up, like the raw ring.
    yield Row(target, "randread", 4 * KIB, 32, poll=True)
    for rw in ("read", "write"):
        yield Row(target, rw, 128 * KIB, 32)
    yield Row(target, "randread", 64 * KIB, 32)
    for block in (4 * KIB, 64 * KIB):
        for offset in (512, 1):
            yield Row(target, "randread", block, 32, offset=offset)
    yield Row(target, "randread", 64 * KIB, 32, segments=16)
    yield Row(target, "randread", 4 * KIB, 32, queues=2)


def nbd_rows():
    """nbdkit's disk in memory at a Unix socket."""
    for depth in (1, 32):
        yield Row("nbd", "randread", 4 * KIB, depth)
    yield Row("nbd", "randwrite", 4 * KIB, 32)
    for rw in ("read", "write"):
        yield Row("nbd", rw, 256 * KIB, 32)


def rbd_rows():
    """The Ceph cluster of the tests."""
    for rw in ("randread", "randwrite"):
        for depth in (1, 32):
            yield Row("rbd", rw, 4 * KIB, depth)


def growth_rows():
    """Scaling of the cost per request, on the null disk. Some rows are also comparison rows."""
    for depth in (4, 8, 16, 64, 256):
        yield Row("null", "randread", 4 * KIB, depth, poll=True, growth=True)
    for segments in (1, 2, 4, 8, 32, 64):
        yield Row("null", "randread", 64 * KIB, 32, segments=segments, poll=True, growth=True)


def profiled_rows():
    """Titles and rows of the profile: null disk, file, file with bounced data, tmpfs."""
    return [("null disk", Row("null", "randread", 4 * KIB, 32, poll=True)),
            ("file, direct", Row("ext4", "randread", 4 * KIB, 32)),
            ("file, bounced (off by 1)", Row("ext4", "randread", 4 * KIB, 32, offset=1)),
            ("tmpfs, direct", Row("tmpfs", "randread", 4 * KIB, 32))]


def all_rows():
    rows = list(null_rows())
    for target in ("ext4", "tmpfs"):
        rows += file_rows(target)
    return rows + list(nbd_rows()) + list(rbd_rows()) + list(growth_rows())
