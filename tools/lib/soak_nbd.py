# SPDX-License-Identifier: MIT
"""NBD servers under verified load, for soak_disks.py: killed and stopped, with nbdkit's filters, and
qemu-nbd with a qcow2 overlay. guestio-blk is killed as well."""

import os
import signal
import subprocess

from machine import Failure, wait_until

MIB = 1 << 20
BYTES = 32 * MIB


class Server:
    """An NBD server at a Unix socket, with an image file."""

    def __init__(self, soak, name, words):
        self.workshop = soak.workshop
        base = os.path.join(soak.workshop.sockets, name)
        self.name, self.socket, self.pid_file = name, f"{base}.nbd", f"{base}.pid"
        self.image = os.path.join(soak.workshop.logs, f"{name}.img")
        with open(self.image, "wb") as image:
            image.truncate(BYTES)
        self.command = [word.format(image=self.image, socket=self.socket, pid=self.pid_file)
                        for word in words]  # fmt: skip
        self.process = None
        self.start()

    @property
    def uri(self):
        return f"nbd+unix:///?socket={self.socket}"

    def start(self):
        for path in (self.socket, self.pid_file):
            if os.path.exists(path):
                os.unlink(path)
        self.process = self.workshop.start(self.command, f"{self.name}.log")

        def is_ready():
            # The file appears once the server listens.
            return os.path.exists(self.pid_file) and os.path.getsize(self.pid_file) != 0

        wait_until(f"{self.name} listens", is_ready, [self.process])

    def end(self, number):
        self.process.send_signal(number)
        wait_until(f"{self.name} ends", lambda: self.process.poll() is not None)

    def restart(self, number):
        self.end(number)
        self.start()

    def is_running(self):
        return self.process.poll() is None


def nbdkit(soak, name, *words):
    return Server(soak, name, ["nbdkit", "-f", "--unix", "{socket}", "--pidfile", "{pid}", *words])


def status(backend):
    return backend.ask("statistics")["disks"][0]["backend"]


def wait_until_back(backend):
    wait_until("the server is back", lambda: status(backend)["available"], [backend.process])


def run_command(*words):
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failure(f"{' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout


def kills_of_the_backend(soak):
    """As CrashTest: split and packed rings, the in-flight record, on nbdkit."""
    process = soak.workshop.start(
        ["env", f"GUESTIO_CRASH_ROUNDS={soak.rounds}", soak.program("program_test"),
         "--gtest_filter=*CrashTest.*/*OnNbd"], "crash.log")  # fmt: skip
    process.wait()
    with open(os.path.join(soak.workshop.logs, "crash.log"), encoding="utf-8") as log:
        text = log.read()
    if process.returncode != 0 or "[  PASSED  ] 2 tests" not in text:
        raise Failure(f"the test of kills ended with {process.returncode}")
    return f"guestio-blk killed {2 * soak.rounds} times"


def kills_of_the_server(soak):
    server = nbdkit(soak, "killed", "file", "{image}")
    backend = soak.backend("killed", server.uri)

    def kill():
        server.end(signal.SIGKILL)
        wait_until("the loss is noticed", lambda: not status(backend)["available"], [backend.process])
        server.start()
        wait_until_back(backend)

    turns = soak.under_load(backend, soak.rounds, kill)
    backend.stop()
    return f"nbdkit killed {turns} times"


def stops_of_the_server(soak):
    server = nbdkit(soak, "stopped", "file", "{image}")
    backend = soak.backend("stopped", server.uri, "--io-timeout", "1")
    turns = max(1, soak.rounds // 10)

    def stop():
        lines = backend.output().count("no reply for 1 s")
        server.process.send_signal(signal.SIGSTOP)
        wait_until("the stop is noticed",
                   lambda: backend.output().count("no reply for 1 s") > lines, [backend.process])  # fmt: skip
        server.process.send_signal(signal.SIGCONT)
        wait_until_back(backend)

    soak.under_load(backend, turns, stop)
    if not server.is_running():
        raise Failure("nbdkit has ended")
    backend.stop()
    return f"nbdkit stopped beyond the I/O timeout {turns} times"


def errors(soak):
    """The filter fails requests while a file exists. The guest sees none of it: they are held."""
    trigger = os.path.join(soak.workshop.sockets, "fail")
    server = nbdkit(soak, "errors", "--filter=error", "file", "{image}", "error=EIO",
                    "error-rate=20%", f"error-file={trigger}")  # fmt: skip
    backend = soak.backend("errors", server.uri)

    def toggle():
        with open(trigger, "w", encoding="utf-8"):
            pass
        held = "requests held pending retry"
        lines = backend.output().count(held)
        wait_until("requests are held", lambda: backend.output().count(held) > lines or
                   backend.ask("statistics")["disks"][0]["held_requests"] > 0, [backend.process])  # fmt: skip
        os.unlink(trigger)

    turns = soak.under_load(backend, max(1, soak.rounds // 5), toggle)
    backend.stop()
    return f"{turns} spells of errors"


def filtered(soak, name, operations, *words):
    server = nbdkit(soak, name, *words)
    backend = soak.backend(name, server.uri)
    soak.load(backend, operations).finish()
    backend.stop()
    if not server.is_running():
        raise Failure("nbdkit has ended")


def exit_last(soak):
    """Replaced in place, guestio-blk is never without a connection; the server ends with it."""
    server = nbdkit(soak, "exitlast", "--filter=exitlast", "file", "{image}")
    backend = soak.backend("exitlast", server.uri)
    turns = soak.under_load(backend, max(1, soak.rounds // 10), backend.take_over)
    if not server.is_running():
        raise Failure("nbdkit has seen no connection for a moment")
    backend.stop()
    wait_until("nbdkit ends", lambda: not server.is_running())
    return f"replaced in place {turns} times"


def qcow2_overlay(soak):
    """qemu-nbd keeps metadata in memory between flushes: what it loses is sent again."""
    logs = soak.workshop.logs
    base, overlay = os.path.join(logs, "base.qcow2"), os.path.join(logs, "overlay.qcow2")
    for path in (base, overlay):
        if os.path.exists(path):
            os.unlink(path)
    run_command("qemu-img", "create", "-q", "-f", "qcow2", base, str(BYTES))
    run_command("qemu-io", "-f", "qcow2", "-c", f"write -P 0x5a 0 {BYTES}", base)
    run_command("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", overlay)
    server = Server(soak, "qcow2", ["qemu-nbd", "--persistent", "--shared=8", "--format=qcow2",
                                    "--discard=unmap", "--socket={socket}", "--pid-file={pid}",
                                    overlay])  # fmt: skip
    backend = soak.backend("qcow2", server.uri)

    def restart():
        server.restart(signal.SIGKILL)
        wait_until_back(backend)

    # The load uses the first 16 MiB.
    turns = soak.under_load(backend, max(1, soak.rounds // 5), restart)
    backend.stop()
    server.end(signal.SIGTERM)
    # A server that was killed leaks clusters at most.
    run_command("qemu-img", "check", "-q", "-f", "qcow2", "-r", "leaks", overlay)
    run_command("qemu-img", "check", "-q", "-f", "qcow2", overlay)
    output = run_command("qemu-io", "-r", "-f", "qcow2", "-c",
                         f"read -P 0x5a {BYTES // 2} {BYTES // 2}", overlay)  # fmt: skip
    if "verification failed" in output:
        raise Failure("the rest of the backing file has changed")
    return f"qemu-nbd killed {turns} times, the overlay is clean"


def scenarios(soak):
    yield "kills-of-guestio-blk", lambda: kills_of_the_backend(soak)
    yield "kills-of-nbdkit", lambda: kills_of_the_server(soak)
    yield "stops-of-nbdkit", lambda: stops_of_the_server(soak)
    yield "errors", lambda: errors(soak)
    yield "delay", lambda: filtered(soak, "delay", 20000, "--filter=delay", "memory", str(BYTES),
                                    "delay-read=2ms", "delay-write=5ms")  # fmt: skip
    yield "rate", lambda: filtered(soak, "rate", 20000, "--filter=rate", "memory", str(BYTES),
                                   "rate=800M")  # fmt: skip
    yield "block-sizes", lambda: filtered(
        soak, "block-sizes", 20000, "--filter=blocksize-policy", "memory", str(BYTES),
        "blocksize-minimum=4096", "blocksize-preferred=65536", "blocksize-maximum=131072",
        "blocksize-error-policy=error")  # fmt: skip
    yield "exitlast", lambda: exit_last(soak)
    yield "qcow2-overlay", lambda: qcow2_overlay(soak)
