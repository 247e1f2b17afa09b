#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Migrates a guest under verified load between two QEMU processes and back, five times.

Usage: migration.py GUESTIO_BLK KERNEL INITRAMFS IMAGE LOGS [ROUNDS]

Two guestio-blk serve one image; each QEMU process has one of them. The guest compares all that it
reads with what it wrote (inside/migration) and says at the end whether anything was lost. For
migration_test.sh.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

MEMORY_MIB = 192
LIMIT_S = 100  # for whatever is waited for
# A kernel that zeroes pages before the device writes them would hide that the device's writes are
# not logged.
GUEST_OPTIONS = "console=ttyS0 quiet panic=-1 oops=panic init_on_alloc=0"


class Failure(Exception):
    """What a person has to know."""


def wait_until(what, condition, processes=()):
    """Looks until the condition holds; a process that ends first is a failure."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        result = condition()
        if result:
            return result
        for process in processes:
            if process.poll() is not None:
                raise Failure(f"{process.args[0]} ended with {process.returncode} before {what}")
        if time.monotonic() > deadline:
            raise Failure(f"{what}: not within {LIMIT_S} s")
        time.sleep(0.01)


def connect(path, process):
    """A connection to a Unix socket that is about to be there."""

    def attempt():
        end = socket.socket(socket.AF_UNIX)
        try:
            end.connect(path)
            return end
        except OSError:
            end.close()
            return None

    return wait_until(f"it listens at {path}", attempt, [process])


class Monitor:
    """QEMU's machine protocol."""

    def __init__(self, path, process):
        self.lines = connect(path, process).makefile("rw")
        self.lines.readline()  # the greeting
        self.ask("qmp_capabilities")

    def ask(self, command, **arguments):
        self.lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.lines.flush()
        for line in self.lines:
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise Failure(f"{command}: {answer['error']['desc']}")
        raise Failure(f"{command}: QEMU is gone")


class Host:
    """One backend, and the QEMU that runs the guest on it now and then."""

    def __init__(self, name, files):
        self.name, self.files = name, files
        self.disk = os.path.join(files.sockets, f"disk-{name}")
        self.qemu = self.monitor = self.console = None
        command = [files.guestio_blk, "--socket-path", self.disk, "--blk-file", files.image,
                   "--image-lock", "in-use", "--num-queues", "2", "--verbose"]
        self.backend = files.start(command, f"backend-{name}.log")
        wait_until("its socket is there", lambda: os.path.exists(self.disk), [self.backend])

    def start_qemu(self, turn, *more):
        base = os.path.join(self.files.sockets, f"{self.name}{turn}")
        size = f"{MEMORY_MIB}M"
        command = [
            os.environ.get("GUESTIO_QEMU", "qemu-system-x86_64"),
            "-machine", "q35,memory-backend=mem", "-m", size, "-smp", "2",
            "-object", f"memory-backend-memfd,id=mem,size={size},share=on",
            "-accel", "tcg", "-cpu", "max", "-nodefaults", "-no-user-config", "-display", "none",
            "-no-reboot", "-qmp", f"unix:{base}.qmp,server=on,wait=off",
            "-chardev", f"socket,id=console,path={base}.con,server=on,wait=off",
            "-serial", "chardev:console",
            "-chardev", f"socket,id=disk0,path={self.disk}",
            "-device", "vhost-user-blk-pci,chardev=disk0,num-queues=2",
            "-kernel", self.files.kernel, "-initrd", self.files.initramfs,
            "-append", GUEST_OPTIONS, *more]  # fmt: skip
        self.qemu = self.files.start(command, f"qemu-{self.name}{turn}.log")
        self.monitor = Monitor(f"{base}.qmp", self.qemu)
        self.console = connect(f"{base}.con", self.qemu)

    def end_qemu(self):
        self.monitor.ask("quit")
        self.qemu.wait(LIMIT_S)
        self.console.close()


class Files:
    """Where everything lies, and what runs."""

    def __init__(self, guestio_blk, kernel, initramfs, image, logs):
        self.guestio_blk, self.kernel, self.initramfs = guestio_blk, kernel, initramfs
        self.image, self.logs = image, logs
        self.sockets = tempfile.mkdtemp(prefix="guestio.", dir="/tmp")
        self.processes = []

    def start(self, command, log):
        with open(os.path.join(self.logs, log), "w", encoding="utf-8") as output:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *command],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output)  # fmt: skip
        process.args = command
        self.processes.append(process)
        return process

    def end(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        subprocess.run(["rm", "-rf", self.sockets], check=True)


class Console:
    """What the guest tells, from whichever QEMU it runs in."""

    def __init__(self, logs):
        self.text = ""
        self.log = open(os.path.join(logs, "console.log"), "w", encoding="utf-8")

    def listen(self, end):
        end.setblocking(False)
        try:
            while data := end.recv(65536).decode(errors="replace").replace("\r", ""):
                self.text += data
                self.log.write(data)
                self.log.flush()
        except BlockingIOError:
            pass
        for line in self.text.splitlines():
            if line.startswith("@guestio fail"):
                raise Failure(f"the guest: {line.removeprefix('@guestio fail ')}")

    def has(self, end, line):
        self.listen(end)
        return f"\n@guestio {line}" in self.text


def migrate(source, target, turn, console):
    """Moves the guest; gives the time it stood still in milliseconds."""
    channel = f"unix:{target.files.sockets}/m{turn}"
    target.start_qemu(turn, "-incoming", channel)
    monitor = source.monitor
    monitor.ask("migrate-set-parameters", **{"max-bandwidth": 64 << 20, "downtime-limit": 1000})
    monitor.ask("migrate", uri=channel)

    def is_over():
        console.listen(source.console)
        state = monitor.ask("query-migrate")
        if state["status"] in ("failed", "cancelled"):
            raise Failure(f"migration {turn}: {state.get('error-desc', state['status'])}")
        return state if state["status"] == "completed" else None

    state = wait_until(f"migration {turn}", is_over, [source.qemu, target.qemu])
    wait_until("the guest runs on", lambda: target.monitor.ask("query-status")["running"],
               [target.qemu])  # fmt: skip
    console.listen(source.console)
    source.end_qemu()
    return state["downtime"], state["ram"]["dirty-sync-count"], state["total-time"]


def run(files, rounds):
    console = Console(files.logs)
    hosts = [Host("a", files), Host("b", files)]
    hosts[0].start_qemu(0)
    wait_until("the guest is under load", lambda: console.has(hosts[0].console, "ready"),
               [hosts[0].qemu])  # fmt: skip
    for turn in range(1, 2 * rounds + 1):
        source, target = hosts if turn % 2 == 1 else hosts[::-1]
        downtime, syncs, total = migrate(source, target, turn, console)
        print(f"    migration {turn}: {total} ms, of which {downtime} ms still, {syncs} rounds",
              flush=True)
        console.listen(target.console)
    last = hosts[0]
    last.console.setblocking(True)
    last.console.sendall(b"stop\n")
    wait_until("the guest's verdict", lambda: console.has(last.console, "done"))
    last.qemu.wait(LIMIT_S)
    for host in hosts:
        host.backend.send_signal(signal.SIGTERM)
        if host.backend.wait(LIMIT_S) != 0:
            raise Failure(f"backend {host.name} ended with {host.backend.returncode}")
    facts = [line for line in console.text.splitlines() if line.startswith("@guestio fact rounds")]
    print(f"    the guest lost nothing; rounds of its streams: {facts[-1].split(' ', 3)[3]}")


def main():
    files = Files(*sys.argv[1:6])
    try:
        run(files, int(sys.argv[6]) if len(sys.argv) > 6 else 5)
        return 0
    except Failure as failure:
        print(f"FAILED: {failure}\nLogs are in {files.logs}", file=sys.stderr)
        return 1
    finally:
        files.end()


if __name__ == "__main__":
    sys.exit(main())
