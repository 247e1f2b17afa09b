# SPDX-License-Identifier: MIT
"""What is compared: each row is one load on one kind of disk."""

import dataclasses

KIB = 1024
TARGETS = ("null", "ext4", "tmpfs")


@dataclasses.dataclass(frozen=True)
class Row:
    target: str  # one of TARGETS; "ext4" is the file system of build/, whatever that is
    rw: str  # as fio and guestio-load name it
    block: int  # bytes of a request
    depth: int  # requests in flight on each queue
    offset: int = 0  # of the data from a page boundary, in bytes
    segments: int = 1  # descriptors of a request's data
    queues: int = 1
    poll: bool = False  # the client looks at the used ring all the time
    growth: bool = False  # shows how cost grows: left out of the tables of comparison

    @property
    def work(self):
        """The load without its target, in one word: randread-4k-d32."""
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
        return f"{self.target}/{self.work}"


def null_rows():
    """The way to a disk and nothing behind it."""
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
    # Without waking the client, as the raw ring wakes nobody.
    yield Row(target, "randread", 4 * KIB, 32, poll=True)
    for rw in ("read", "write"):
        yield Row(target, rw, 128 * KIB, 32)
    yield Row(target, "randread", 64 * KIB, 32)
    for block in (4 * KIB, 64 * KIB):
        for offset in (512, 1):
            yield Row(target, "randread", block, 32, offset=offset)
    yield Row(target, "randread", 64 * KIB, 32, segments=16)
    yield Row(target, "randread", 4 * KIB, 32, queues=2)


def growth_rows():
    """How cost grows, on the null disk where nothing hides it; some are rows of the comparison."""
    for depth in (4, 8, 16, 64, 256):
        yield Row("null", "randread", 4 * KIB, depth, poll=True, growth=True)
    for segments in (1, 2, 4, 8, 32, 64):
        yield Row("null", "randread", 64 * KIB, 32, segments=segments, poll=True, growth=True)


def profiled_rows():
    """Titles and rows of the profile: the way alone, a disk, the same with bytes to copy."""
    return [("null disk", Row("null", "randread", 4 * KIB, 32, poll=True)),
            ("file, direct", Row("ext4", "randread", 4 * KIB, 32)),
            ("file, bounced (off by 1)", Row("ext4", "randread", 4 * KIB, 32, offset=1)),
            ("tmpfs, direct", Row("tmpfs", "randread", 4 * KIB, 32))]


def all_rows():
    rows = list(null_rows())
    for target in ("ext4", "tmpfs"):
        rows += file_rows(target)
    return rows + list(growth_rows())
