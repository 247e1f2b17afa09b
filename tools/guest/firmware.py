#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Boots QEMU's firmware from a disk of guestio-blk, with each kind of virtio device.

Usage: firmware.py GUESTIO_BLK BOOT_SECTOR IMAGE LOGS

SeaBIOS has its own virtio-blk driver: it polls, uses no interrupts, and supports legacy devices.
The boot sector (inside/boot_sector.S) reads and writes through it. For firmware_test.sh.
"""

import os
import subprocess
import sys

from machine import Backend, Console, Failure, Machine, disk_words, main

MEMORY_KIB = 64 * 1024
SECTORS, READ_AT, WRITTEN_AT = 64, 1, 1000
DEVICES = {
    "modern": ["disable-legacy=on"],
    "transitional": ["disable-legacy=off"],
    "legacy": ["disable-legacy=off", "disable-modern=on"],
}


def prepare(image, boot_sector, kind):
    """Writes what the firmware boots from. Returns the words that it prints, and what it copies."""
    word = f"{kind} {os.urandom(8).hex()}"
    data = word.encode() + b"\0" + os.urandom(SECTORS * 512 - len(word) - 1)
    with open(boot_sector, "rb") as code, open(image, "r+b") as disk:
        disk.write(code.read())
        disk.seek(READ_AT * 512)
        disk.write(data)
    return word, data


def boot(workshop, backend, kind, word, options):
    """One boot: it reports the sectors read and writes them at another offset."""
    words = disk_words("disk0", backend.socket, "num-queues=1", "bootindex=0", *options)
    machine = Machine(workshop, kind, MEMORY_KIB, words)
    machine.wait_for(Console(workshop), f"read {word}", backend.process)
    machine.quit()


def judge(image, kind, data):
    with open(image, "rb") as disk:
        disk.seek(WRITTEN_AT * 512)
        if disk.read(len(data)) != data:
            raise Failure(f"{kind}: the firmware's writes are not in the image")
    print(f"    {kind}: booted, {SECTORS} sectors read and written", flush=True)


def boot_overlay(workshop, guestio_blk, boot_sector, image):
    """Boots from a qcow2 image whose backing file has the boot sector."""
    word, data = prepare(image, boot_sector, "qcow2")
    overlay, copy = f"{image}.qcow2", f"{image}.copy"
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "raw", overlay]
    subprocess.run(create, check=True)
    backend = Backend(workshop, guestio_blk, "disk0", overlay, "--format", "qcow2")
    backend.start()
    boot(workshop, backend, "qcow2", word, DEVICES["modern"])
    backend.stop()
    subprocess.run(["qemu-img", "convert", "-O", "raw", overlay, copy], check=True)
    judge(copy, "qcow2", data)


def run(workshop, guestio_blk, boot_sector, image):
    backend = Backend(workshop, guestio_blk, "disk0", image)
    backend.start()
    for kind, options in DEVICES.items():
        word, data = prepare(image, boot_sector, kind)
        boot(workshop, backend, kind, word, options)
        judge(image, kind, data)
    backend.stop()
    boot_overlay(workshop, guestio_blk, boot_sector, image)


if __name__ == "__main__":
    sys.exit(main(sys.argv[4], lambda workshop: run(workshop, *sys.argv[1:4])))
