#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Migrates a guest under verified load between two QEMU processes and back, three times.

Usage: migration.py GUESTIO_BLK KERNEL INITRAMFS IMAGE LOGS [ROUNDS]

The last migration there and the last one back are post-copy, where the kernel permits it for this
user: the guest runs before most of its memory has arrived, and the backend waits for the pages it
needs.

Two guestio-blk serve one image, one for each QEMU process. The guest compares all data read with
the data written (inside/load) and reports any loss at the end. For migration_test.sh.
"""

import ctypes
import os
import sys

from machine import KERNEL_OPTIONS, Backend, Console, Failure, Machine, disk_words, main, wait_until

# The 8 KiB are for QEMU before 9.0: with memory of a multiple of 256 KiB its emulator stores to
# pages without marking them again after their marks were collected (docs/migration.md). Other sizes
# take another, correct code path.
MEMORY_KIB = 192 * 1024 + 8
# A kernel that zeroes pages before the device writes them would hide missing marks of these writes.
GUEST_OPTIONS = f"{KERNEL_OPTIONS} init_on_alloc=0"


class Host:
    """One backend and its QEMU, which runs the guest half of the time."""

    def __init__(self, workshop, name, guestio_blk, kernel, initramfs, image):
        self.workshop, self.name = workshop, name
        self.kernel, self.initramfs = kernel, initramfs
        self.backend = Backend(workshop, guestio_blk, name, image, "--image-lock", "in-use",
                               "--num-queues", "2", "--post-copy", "on")  # fmt: skip
        self.backend.start()
        self.machine = None

    def start(self, turn, *more):
        words = ["-smp", "2", *disk_words("disk0", self.backend.socket, "num-queues=2"),
                 "-kernel", self.kernel, "-initrd", self.initramfs, "-append", GUEST_OPTIONS,
                 *more]  # fmt: skip
        self.machine = Machine(self.workshop, f"{self.name}{turn}", MEMORY_KIB, words)


def has_userfaultfd():
    """Whether this user may use a userfaultfd, for faults of the kernel as well."""
    end = ctypes.CDLL(None).syscall(323, os.O_CLOEXEC)
    if end >= 0:
        os.close(end)
    return end >= 0


def allow_post_copy(monitor):
    monitor.ask("migrate-set-capabilities",
                capabilities=[{"capability": "postcopy-ram", "state": True}])  # fmt: skip


def migrate(source, target, turn, console, is_post_copy):
    """Migrates the guest. Returns QEMU's statistics."""
    channel = f"unix:{target.workshop.sockets}/m{turn}"
    target.start(turn, "-incoming", "defer")
    monitor = source.machine.monitor
    if is_post_copy:
        # Slow enough to change over before the end and to let the guest run before the last page,
        # on a busy machine as well.
        monitor.ask("migrate-set-parameters", **{"max-bandwidth": 1 << 20, "downtime-limit": 1,
                                                 "max-postcopy-bandwidth": 32 << 20})  # fmt: skip
        allow_post_copy(monitor)
        allow_post_copy(target.machine.monitor)
    else:
        monitor.ask("migrate-set-parameters", **{"max-bandwidth": 64 << 20, "downtime-limit": 1000})
    target.machine.monitor.ask("migrate-incoming", uri=channel)
    monitor.ask("migrate", uri=channel)
    if is_post_copy:
        wait_until("the first page", lambda: monitor.ask("query-migrate").get("ram", {}).get(
            "transferred", 0) > 0, [source.machine.process])  # fmt: skip
        monitor.ask("migrate-start-postcopy")

    def is_over():
        console.listen(source.machine.end)
        state = monitor.ask("query-migrate")
        if state["status"] in ("failed", "cancelled"):
            raise Failure(f"migration {turn}: {state.get('error-desc', state['status'])}")
        return state if state["status"] == "completed" else None

    processes = [source.machine.process, target.machine.process]
    state = wait_until(f"migration {turn}", is_over, processes)
    wait_until("the guest runs on", lambda: target.machine.monitor.ask("query-status")["running"],
               processes)  # fmt: skip
    console.listen(source.machine.end)
    source.machine.quit()
    return state


def run(workshop, files, rounds):
    console = Console(workshop)
    hosts = [Host(workshop, name, *files) for name in ("a", "b")]
    hosts[0].start(0)
    hosts[0].machine.wait_for(console, "ready")
    post_copies = 2 if has_userfaultfd() else 0
    for turn in range(1, 2 * rounds + 1):
        source, target = hosts if turn % 2 == 1 else hosts[::-1]
        is_post_copy = turn > 2 * rounds - post_copies
        state = migrate(source, target, turn, console, is_post_copy)
        pages = state["ram"]["postcopy-requests"]
        if is_post_copy and pages == 0:
            raise Failure("no page was requested after the guest had started")
        print(f"    migration {turn}: {state['total-time']} ms, of which {state['downtime']} ms"
              f" still, {state['ram']['dirty-sync-count']} rounds"
              + (f", post-copy: {pages} pages requested" if is_post_copy else ""),
              flush=True)  # fmt: skip
        # The load continues before the next migration.
        target.machine.say("alive")
        target.machine.wait_for(console, f"alive {turn}")
    machine = hosts[0].machine
    machine.say("stop")
    machine.wait_for(console, "done")
    machine.wait()
    for host in hosts:
        host.backend.stop()
    print(f"    the guest lost nothing; rounds of its streams: {console.fact('rounds')}")


if __name__ == "__main__":
    ROUNDS = int(sys.argv[6]) if len(sys.argv) > 6 else 5
    sys.exit(main(sys.argv[5], lambda workshop: run(workshop, sys.argv[1:5], ROUNDS)))
