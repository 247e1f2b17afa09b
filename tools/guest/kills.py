#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Kills the backends of a guest under verified load at random moments, then replaces them in place
half as often.

Usage: kills.py GUESTIO_BLK KERNEL INITRAMFS LOGS ROUNDS IMAGE IMAGE

The guest has two disks, one with split and one with packed rings, each behind a guestio-blk of its
own. QEMU reconnects once a second (`reconnect=1`). The guest compares all data read with the data
written (inside/load), and reports any difference or error at the end. For kills_test.sh.
"""

import random
import statistics
import sys

from machine import KERNEL_OPTIONS, Backend, Console, Failure, Machine, disk_words, main

MEMORY_KIB = 256 * 1024
GUEST_OPTIONS = f"{KERNEL_OPTIONS} guestio_disks=vda,vdb"


def kill_and_start(backend, machine, chance):
    """Kills it at a random moment. Returns the milliseconds until its successor serves."""
    backend.wait_for("queue 1: runs", machine.process)
    backend.wait_for_requests(chance.randint(0, 300), machine.process)
    backend.kill()
    return backend.start()


def run(workshop, guestio_blk, kernel, initramfs, rounds, images):
    console = Console(workshop)
    backends = [Backend(workshop, guestio_blk, name, image, "--num-queues", "2")
                for name, image in zip(("split", "packed"), images)]  # fmt: skip
    words = ["-smp", "2", "-kernel", kernel, "-initrd", initramfs, "-append", GUEST_OPTIONS]
    for backend in backends:
        backend.start()
        packed = "on" if backend.name == "packed" else "off"
        words += disk_words(backend.name, backend.socket, "num-queues=2", f"packed={packed}")
    machine = Machine(workshop, "guest", MEMORY_KIB, words)
    machine.wait_for(console, "ready")
    chance = random.Random(29)
    starts = []
    for turn in range(1, rounds + 1):
        starts += [kill_and_start(backend, machine, chance) for backend in backends]
        # The guest's processors keep running whatever its disks do.
        machine.say("alive")
        machine.wait_for(console, f"alive {turn}")
    for backend in backends:
        backend.wait_for("queue 1: runs", machine.process)
    marks = {backend.name: len(backend.whole_output()) for backend in backends}
    replacements = max(1, rounds // 2)
    for turn in range(rounds + 1, rounds + replacements + 1):
        for backend in backends:
            backend.wait_for_requests(chance.randint(0, 300), machine.process)
            backend.take_over()
        machine.say("alive")
        machine.wait_for(console, f"alive {turn}")
    machine.say("stop")
    machine.wait_for(console, "done")
    machine.wait()
    for backend in backends:
        backend.stop()
        text = backend.whole_output()
        if backend.name == "packed" and "runs: packed" not in text:
            raise Failure("there was no packed ring")
        print(f"    {backend.name}: killed {rounds} times; queues with requests in flight then: "
              f"{text.count('are done again')}; replaced {replacements} times")  # fmt: skip
        if text[marks[backend.name] :].count("front-end disconnected") != 1:
            raise Failure(f"{backend.name}: QEMU left before the guest's end")
    print(f"    from start to serving: median {statistics.median(starts):.0f} ms, most"
          f" {max(starts):.0f} ms")  # fmt: skip
    print(f"    the guest lost nothing; rounds of its streams: {console.fact('rounds')}")


if __name__ == "__main__":
    PROGRAM, KERNEL, INITRAMFS, LOGS, ROUNDS = sys.argv[1:6]
    sys.exit(main(LOGS, lambda workshop: run(workshop, PROGRAM, KERNEL, INITRAMFS, int(ROUNDS),
                                             sys.argv[6:])))  # fmt: skip
