#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Changes a machine while its guest runs: the disk grows, memory is removed and added.

Usage: changes.py GUESTIO_BLK KERNEL INITRAMFS LOGS IMAGE READ_ONLY_IMAGE

One guest with two processors, a disk with two queues and a read-only one. It runs the checks by
name (inside/changes). For changes_test.sh.
"""

import os
import re
import resource
import sys

from machine import KERNEL_OPTIONS, Backend, Console, Failure, Machine, disk_words, main, wait_until

MEMORY_KIB = 256 * 1024
MORE_KIB = 256 * 1024
GROWN = 192 << 20
GUEST_OPTIONS = f"{KERNEL_OPTIONS} memhp_default_state=online"


class Guest:
    """The guest and its checks."""

    def __init__(self, workshop, machine):
        self.machine, self.console = machine, Console(workshop)
        machine.wait_for(self.console, "ready")
        self.memory_kib = int(re.search(r"@guestio ready (\d+)", self.console.text)[1])

    def check(self, name, *arguments):
        self.machine.say(" ".join([name, *(str(argument) for argument in arguments)]))
        self.machine.wait_for(self.console, f"pass {name}")
        result = re.search(rf"@guestio pass {name} (.*)", self.console.text)[1]
        print(f"    {name:<11} {result}", flush=True)


def may_lock_any_memory():
    """Whether no memory-lock limit applies; guestio-blk registers no memory within one."""
    with open("/proc/self/status", encoding="utf-8") as status:
        capabilities = int(re.search(r"CapEff:\s*([0-9a-f]+)", status.read())[1], 16)
    has_limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != resource.RLIM_INFINITY
    return bool(capabilities >> 14 & 1) or not has_limit  # CAP_IPC_LOCK


def count_requests(backend, *kinds):
    """The requests of these kinds on each queue of the disk."""
    statistics = backend.ask("statistics")
    return [sum(queue["requests"][kind]["requests"] for kind in kinds)
            for queue in statistics["disks"][0]["queues"]]  # fmt: skip


def run(workshop, guestio_blk, kernel, initramfs, image, read_only_image):
    disk = Backend(workshop, guestio_blk, "disk0", image, "--num-queues", "2")
    other = Backend(workshop, guestio_blk, "disk1", read_only_image, "--read-only")
    for backend in (disk, other):
        backend.start()
    words = ["-smp", "2", *disk_words("disk0", disk.socket, "num-queues=2"),
             *disk_words("disk1", other.socket, "num-queues=1"), "-device", "virtio-balloon-pci",
             "-kernel", kernel, "-initrd", initramfs, "-append", GUEST_OPTIONS]  # fmt: skip
    machine = Machine(workshop, "guest", MEMORY_KIB, words, ",slots=2,maxmem=2G", ",prealloc=on")
    guest = Guest(workshop, machine)

    guest.check("queues")
    requests = count_requests(disk, "read", "write")
    if len(requests) != 2 or min(requests) < 512:
        raise Failure(f"the queues had {requests} requests")

    guest.check("discard")

    # Resident memory is registered until the guest releases some of it.
    is_registered = may_lock_any_memory()
    if is_registered:
        disk.wait_for("guest memory pinned", machine.process)
    for name, kib in (("inflated", MEMORY_KIB * 7 // 8), ("deflated", MEMORY_KIB)):
        machine.monitor.ask("balloon", value=kib << 10)
        wait_until("the balloon has its size",
                   lambda size=kib << 10: machine.monitor.ask("query-balloon")["actual"] == size,
                   [machine.process])  # fmt: skip
        guest.check(name, guest.memory_kib)
    if is_registered:
        disk.wait_for("guest memory released", machine.process)

    os.truncate(image, GROWN)
    disk.ask("resize", "disk0")
    guest.check("grown", GROWN)

    machine.monitor.ask("object-add", **{"qom-type": "memory-backend-memfd", "id": "more",
                                         "size": MORE_KIB << 10, "share": True})  # fmt: skip
    machine.monitor.ask("device_add", driver="pc-dimm", id="dimm0", memdev="more")
    guest.check("memory", guest.memory_kib + MORE_KIB * 9 // 10, guest.memory_kib)

    guest.check("read_only")
    if count_requests(other, "flush") == [0]:
        raise Failure("the read-only disk was not asked to flush")
    guest.check("kernel_log")
    machine.say("off")
    machine.wait()
    for backend in (disk, other):
        backend.stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[4], lambda workshop: run(workshop, *sys.argv[1:4], *sys.argv[5:7])))
