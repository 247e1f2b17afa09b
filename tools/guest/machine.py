# SPDX-License-Identifier: MIT
"""QEMU guests and their backends for the scripts beside this one.

A script makes a `Workshop` with `Backend`s and `Machine`s; their processes end with it. An error
is a `Failure` with a line for the developer; `main()` prints it. Each wait is for an event, never
for a time: it has a generous limit, and ends early when the process responsible for the event has
ended.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

# The kernel command line of every guest.
KERNEL_OPTIONS = "console=ttyS0 quiet no_timer_check panic=-1 oops=panic"
# The limit of each wait: busy machines are slow.
LIMIT_S = 180 * int(os.environ.get("GUESTIO_TEST_PATIENCE", "1"))


class Failure(Exception):
    """Ends the test with a line for the developer."""


def wait_until(what, condition, processes=()):
    """Polls the condition until it holds. Returns its value."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        result = condition()
        if result:
            return result
        for process in processes:
            if process.poll() is not None:
                result = condition()  # perhaps its last action
                if result:
                    return result
                raise Failure(f"{process.args[0]} ended with {process.returncode} before {what}")
        if time.monotonic() > deadline:
            raise Failure(f"{what}: not within {LIMIT_S} s")
        time.sleep(0.005)


class Workshop:
    """A directory for logs, one with a short path for sockets, and the started processes."""

    def __init__(self, logs):
        os.makedirs(logs, exist_ok=True)
        self.logs = logs
        self.sockets = tempfile.mkdtemp(prefix="guestio.", dir="/tmp")
        self.processes = []

    def start(self, command, log):
        """Starts a program; its output is appended to that log."""
        with open(os.path.join(self.logs, log), "a", encoding="utf-8") as output:
            output.write(f"$ {' '.join(command)}\n")
            output.flush()
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
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


class Backend:
    """guestio-blk with an image, at a socket of its own."""

    def __init__(self, workshop, program, name, image, *options):
        self.name, self.log = name, f"backend-{name}.log"
        self.workshop = workshop
        self.socket = os.path.join(workshop.sockets, name)
        self.control = f"{self.socket}.control"
        self.command = [program, "--socket-path", self.socket, "--blk-file", image, "--control",
                        self.control, "--verbose", *options]  # fmt: skip
        self.process, self.told = None, 0

    def start(self):
        """Starts or restarts it. Returns the milliseconds until it serves."""
        self.told = self._size()
        since = time.monotonic()
        self.process = self.workshop.start(self.command, self.log)
        self.wait_for("serves ")
        return (time.monotonic() - since) * 1000

    def _size(self):
        path = os.path.join(self.workshop.logs, self.log)
        return os.path.getsize(path) if os.path.exists(path) else 0

    def output(self):
        """The log of this process."""
        with open(os.path.join(self.workshop.logs, self.log), "rb") as log:
            log.seek(self.told)
            return log.read().decode(errors="replace")

    def whole_output(self):
        """The log of this process and its predecessors."""
        with open(os.path.join(self.workshop.logs, self.log), encoding="utf-8") as log:
            return log.read()

    def wait_for(self, text, *others):
        """Waits until this process has logged that text."""
        wait_until(f"{self.name} logs '{text}'", lambda: text in self.output(),
                   [self.process, *others])  # fmt: skip

    def kill(self):
        self.process.kill()
        self.process.wait()

    def take_over(self):
        """Another guestio-blk takes over; this one exits with status 0. Retries while a slow disk
        prevents it."""
        before = self.process
        command = [self.command[0], "--takeover", self.control, "--verbose"]

        def attempt():
            self.told = self._size()
            other = self.workshop.start(command, self.log)
            done = "took over from process"
            wait_until(f"{self.name} is replaced, or not",
                       lambda: done in self.output() or other.poll() is not None)  # fmt: skip
            return other if done in self.output() else None

        self.process = wait_until(f"{self.name} is replaced", attempt, [before])
        wait_until(f"{self.name} has exited", lambda: before.poll() is not None)
        if before.returncode != 0:
            raise Failure(f"{self.name} ended with {before.returncode} when it was replaced")

    def ask(self, *words):
        """A command at the control socket."""
        done = subprocess.run([self.command[0], "--ask", self.control, *words],
                              capture_output=True, text=True, check=False, timeout=LIMIT_S)  # fmt: skip
        if done.returncode != 0:
            raise Failure(f"{self.name}: {' '.join(words)}: {done.stdout}{done.stderr}")
        return json.loads(done.stdout)

    def requests(self):
        """The requests completed since its start."""
        kinds = self.ask("statistics")["disks"][0]["requests"]
        return sum(kind["requests"] for kind in kinds.values())

    def wait_for_requests(self, requests, *others):
        """Waits until it has completed so many more."""
        enough = self.requests() + requests
        wait_until(f"{self.name} completes {requests} requests",
                   lambda: self.requests() >= enough, [self.process, *others])  # fmt: skip

    def stop(self):
        """Ends it with SIGTERM; its status must be 0."""
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired as late:
            raise Failure(f"{self.name} does not exit on SIGTERM") from late
        if status != 0:
            raise Failure(f"{self.name} ended with {status} on SIGTERM")


def connect(path, process):
    """Connects to a Unix socket, once it listens."""

    def attempt():
        end = socket.socket(socket.AF_UNIX)
        try:
            end.connect(path)
            return end
        except OSError:
            end.close()
            return None

    return wait_until(f"a listener at {path}", attempt, [process])


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
        raise Failure(f"{command}: QEMU has disconnected")


class Console:
    """The lines of a guest that begin with @guestio, from any of its QEMU processes."""

    def __init__(self, workshop):
        self.text = ""
        self.log = open(os.path.join(workshop.logs, "console.log"), "w", encoding="utf-8")

    def listen(self, end):
        end.setblocking(False)
        try:
            while data := end.recv(65536).decode(errors="replace").replace("\r", ""):
                self.text += data
                self.log.write(data)
                self.log.flush()
        except (BlockingIOError, ConnectionError):
            pass
        for line in self.text.split("\n")[:-1]:
            if line.startswith("@guestio fail"):
                raise Failure(f"the guest: {line.removeprefix('@guestio fail ')}")

    def has(self, end, line):
        """Whether a complete line with this beginning has arrived."""
        self.listen(end)
        place = self.text.find(f"\n@guestio {line}")
        return place >= 0 and "\n" in self.text[place + 1 :]

    def fact(self, name):
        """The guest's last fact of that name."""
        start = f"@guestio fact {name} "
        facts = [line for line in self.text.splitlines() if line.startswith(start)]
        if not facts:
            raise Failure(f"the guest reported no '{name}'")
        return facts[-1].removeprefix(start)


def disk_words(identity, path, *options):
    """QEMU's options for a disk behind a vhost-user socket; QEMU reconnects once a second."""
    return ["-chardev", f"socket,id={identity},path={path},reconnect=1",
            "-device", ",".join(["vhost-user-blk-pci", f"chardev={identity}", *options])]  # fmt: skip


class Machine:
    """A QEMU process."""

    def __init__(self, workshop, name, memory_kib, words, more_memory="", backing=""):
        base = os.path.join(workshop.sockets, name)
        size = f"{memory_kib}K"
        command = [
            os.environ.get("GUESTIO_QEMU", "qemu-system-x86_64"),
            "-machine", "q35,memory-backend=mem", "-m", f"{size}{more_memory}",
            "-object", f"memory-backend-memfd,id=mem,size={size},share=on{backing}",
            "-accel", "tcg", "-cpu", "max", "-nodefaults", "-no-user-config", "-display", "none",
            "-no-reboot", "-qmp", f"unix:{base}.qmp,server=on,wait=off",
            "-chardev", f"socket,id=console,path={base}.con,server=on,wait=off",
            "-serial", "chardev:console", *words]  # fmt: skip
        self.process = workshop.start(command, f"qemu-{name}.log")
        self.end = connect(f"{base}.con", self.process)
        self.monitor = Monitor(f"{base}.qmp", self.process)

    def wait_for(self, console, line, *others):
        """Waits for a line of the guest with this beginning."""
        wait_until(f"the guest's line '{line}'", lambda: console.has(self.end, line),
                   [self.process, *others])  # fmt: skip

    def say(self, line):
        """Writes a line to the guest's console."""
        self.end.setblocking(True)
        self.end.sendall(line.encode() + b"\n")

    def wait(self):
        """Waits until the guest has powered off."""
        wait_until("QEMU ends", lambda: self.process.poll() is not None)
        if self.process.returncode != 0:
            raise Failure(f"QEMU ended with {self.process.returncode}")

    def quit(self):
        self.monitor.ask("quit")
        self.wait()
        self.end.close()


def main(logs, run):
    """Runs it in a workshop. Returns the exit status."""
    workshop = Workshop(logs)
    try:
        run(workshop)
        return 0
    except Failure as failure:
        print(f"FAILED: {failure}\nLogs are in {logs}", file=sys.stderr)
        return 1
    finally:
        workshop.end()
