#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A libvirt domain on a disk of guestio-blk: killed and replaced backends, resize, managed save.

Usage: libvirt.py GUESTIO_BLK KERNEL INITRAMFS LOGS IMAGE ROUNDS

libvirt runs QEMU as another user, who may connect as a member of the socket's group
(`--socket-group`). The domain is the one of docs/libvirt.md plus the guest's kernel and console.
The guest compares data read with the data written (inside/changes). For libvirt_test.sh.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile

from machine import KERNEL_OPTIONS, LIMIT_S, Backend, Console, Failure, connect, main, wait_until

HERE = os.path.dirname(os.path.abspath(__file__))
GUIDE = os.path.join(HERE, "..", "..", "docs", "libvirt.md")
NAME = "vm1"
MEMORY_MIB = 160
# Unused on this host.
QEMU_USER, QEMU_GROUP = 54321, 54322
MIB = 1 << 20
GROWN = 64 * MIB


class Libvirt:
    """A private libvirtd and its virsh."""

    def __init__(self, workshop):
        logs = os.path.join(workshop.logs, "libvirt")
        os.makedirs(logs, exist_ok=True)
        self.log = os.path.join(workshop.logs, "virsh.log")
        self.socket = os.path.join(workshop.sockets, "libvirt-sock")
        self.process = workshop.start(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
             os.path.join(HERE, "private_libvirtd.sh"), workshop.sockets, logs, str(QEMU_USER),
             str(QEMU_GROUP)], "libvirtd.log")  # fmt: skip
        connect(self.socket, self.process).close()

    def virsh(self, *words):
        """Returns its output."""
        command = ["virsh", "--quiet", "--connect", f"qemu+unix:///system?socket={self.socket}",
                   *words]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False,
                                  timeout=LIMIT_S)  # fmt: skip
        except subprocess.TimeoutExpired as late:
            raise Failure(f"virsh {' '.join(words)}: not within {LIMIT_S} s") from late
        with open(self.log, "a", encoding="utf-8") as log:
            log.write(f"$ virsh {' '.join(words)}\n{done.stdout}{done.stderr}")
        if done.returncode != 0:
            raise Failure(f"virsh {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout.strip()


def domain_xml(backend, files, console):
    """The guide's domain, adapted to this host and guest."""
    with open(GUIDE, encoding="utf-8") as guide:
        domain = re.search(r"^ *<domain .*?</domain>", guide.read(), re.DOTALL | re.MULTILINE)[0]

    def put(pattern, text):
        nonlocal domain
        domain, count = re.subn(pattern, text, domain, flags=re.DOTALL)
        if count != 1:
            raise Failure(f"the domain in docs/libvirt.md has {count} times '{pattern}'")

    kernel, initramfs = files
    put("<domain type='kvm'>", "<domain type='qemu'>")
    put("<name>.*?</name>", f"<name>{NAME}</name>")
    put("<memory [^>]*>.*?</memory>", f"<memory unit='MiB'>{MEMORY_MIB}</memory>")
    put("<cpu mode='host-passthrough'/>", "")
    put("<os>(.*?)</os>", rf"<os>\1<kernel>{kernel}</kernel><initrd>{initramfs}</initrd>"
        f"<cmdline>{KERNEL_OPTIONS}</cmdline></os>")  # fmt: skip
    put("(<source type='unix' path=)'[^']*'", rf"\1'{backend.socket}'")
    put("</devices>", f"<serial type='unix'><source mode='bind' path='{console}'/></serial>"
        "<controller type='usb' model='none'/><memballoon model='none'/></devices>")  # fmt: skip
    return domain


class Guest:
    """The domain and its console, a new one after each start."""

    def __init__(self, workshop, libvirt, backend):
        self.libvirt, self.backend = libvirt, backend
        self.console, self.path = Console(workshop), os.path.join(workshop.sockets, "console")
        self.end, self.checks = None, 0

    def start(self):
        """Starts or restores it; the console is connected before it runs."""
        self.libvirt.virsh("start", NAME, "--paused")
        self.end = connect(self.path, self.libvirt.process)
        self.libvirt.virsh("resume", NAME)

    def wait_for(self, line):
        wait_until(f"the guest's line '{line}'", lambda: self.console.has(self.end, line),
                   [self.libvirt.process, self.backend.process])  # fmt: skip

    def say(self, line):
        self.end.setblocking(True)
        self.end.sendall(line.encode() + b"\n")

    def begin(self, name, *arguments):
        """Begins a check; finish() waits for its result."""
        self.checks += 1
        self.say(" ".join([name, *(str(argument) for argument in arguments)]))

    def finish(self, name, what):
        def count():
            self.console.listen(self.end)
            return len(re.findall(r"\n@guestio pass .*\n", self.console.text)) == self.checks

        wait_until(f"the guest passes '{name}'", count,
                   [self.libvirt.process, self.backend.process])  # fmt: skip
        print(f"    {what}", flush=True)

    def check(self, what, name, *arguments):
        self.begin(name, *arguments)
        self.finish(name, what)

    def begin_writing(self):
        """Begins to write and compare. Returns meanwhile."""
        before = self.count_writes()
        self.begin("queues")
        wait_until("its writes", lambda: self.count_writes() > before + 16,
                   [self.libvirt.process, self.backend.process])  # fmt: skip

    def count_writes(self):
        queues = self.backend.ask("statistics")["disks"][0]["queues"]
        return sum(queue["requests"]["write"]["requests"] for queue in queues)

    def save(self):
        """Managed save: the domain is off until its next start."""
        self.libvirt.virsh("managedsave", NAME)
        self.console.listen(self.end)
        self.end.close()

    def is_off(self):
        return self.libvirt.virsh("domstate", NAME) == "shut off"


def copy_for_qemu(workshop, *files):
    """Copies readable by QEMU's user, wherever this tree is."""
    os.chmod(workshop.sockets, 0o711)
    copies = []
    for file in files:
        copies.append(shutil.copy(file, workshop.sockets))
        os.chmod(copies[-1], 0o644)
    return copies


def grow(guest, image):
    os.truncate(image, GROWN)
    guest.backend.ask("resize", NAME)
    guest.check(f"resize: the guest has {GROWN // MIB} MiB", "grown", GROWN)


def kill_and_start(guest):
    guest.backend.kill()
    guest.backend.start()


def run(workshop, guestio_blk, files, image, rounds):
    backend = Backend(workshop, guestio_blk, NAME, image, "--name", NAME, "--num-queues", "2",
                      "--socket-group", str(QEMU_GROUP))  # fmt: skip
    backend.start()
    libvirt = Libvirt(workshop)
    guest = Guest(workshop, libvirt, backend)
    domain = domain_xml(backend, copy_for_qemu(workshop, *files), guest.path)
    with tempfile.NamedTemporaryFile("w", dir=workshop.logs, suffix=".xml") as description:
        description.write(domain)
        description.flush()
        libvirt.virsh("define", description.name)
    guest.start()
    guest.wait_for("ready")
    guest.check("started: two queues, written and compared", "queues")
    for turn in range(rounds):
        guest.begin_writing()
        kill_and_start(guest)
        guest.finish("queues", "killed while the guest wrote: nothing is lost")
        guest.begin_writing()
        guest.save()
        kill_and_start(guest)
        guest.start()
        guest.finish("queues", "saved while the guest wrote, killed, restored: nothing is lost")
        guest.begin_writing()
        backend.take_over()
        guest.finish("queues", "replaced in place while the guest wrote: nothing is lost")
        if turn == 0:
            grow(guest, image)
    guest.check("nothing is lost at the end", "same", 0, 16 * MIB, GROWN - 8 * MIB)
    guest.check("no errors in the guest's kernel log", "kernel_log")
    guest.say("off")
    wait_until("the domain is off", guest.is_off, [libvirt.process, backend.process])
    backend.stop()


if __name__ == "__main__":
    PROGRAM, KERNEL, INITRAMFS, LOGS, IMAGE, ROUNDS = sys.argv[1:7]
    sys.exit(main(LOGS, lambda workshop: run(workshop, PROGRAM, (KERNEL, INITRAMFS), IMAGE,
                                             int(ROUNDS))))  # fmt: skip
