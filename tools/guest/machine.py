# SPDX-License-Identifier: MIT
"""QEMU guests and their backends for the scripts beside this one: started, watched, asked, ended.

A script makes a `Workshop`, whose processes all end with it, and in it `Backend`s and `Machine`s.
Whatever goes wrong is a `Failure`, whose text is what a person has to know; `main()` prints it.
Nothing waits for a time to pass: each wait is for an event, with a generous limit, and ends early
when a process that has to bring it about is gone.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

# For whatever is waited for: busy machines are slow.
LIMIT_S = 180 * int(os.environ.get("GUESTIO_TEST_PATIENCE", "1"))


class Failure(Exception):
    """What a person has to know."""


def wait_until(what, condition, processes=()):
    """Looks until the condition holds, and gives what it gave."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        result = condition()
        if result:
            return result
        for process in processes:
            if process.poll() is not None:
                result = condition()  # it may have been its last deed
                if result:
                    return result
                raise Failure(f"{process.args[0]} ended with {process.returncode} before {what}")
        if time.monotonic() > deadline:
            raise Failure(f"{what}: not within {LIMIT_S} s")
        time.sleep(0.005)


class Workshop:
    """A directory for logs, a short one for sockets, and the processes that were started."""

    def __init__(self, logs):
        os.makedirs(logs, exist_ok=True)
        self.logs = logs
        self.sockets = tempfile.mkdtemp(prefix="guestio.", dir="/tmp")
        self.processes = []

    def start(self, command, log):
        """Starts a program; its output goes to the end of that log."""
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
        """Starts it, for the first time or again. Gives the milliseconds until it serves."""
        self.told = self._size()
        since = time.monotonic()
        self.process = self.workshop.start(self.command, self.log)
        self.wait_for("serves ")
        return (time.monotonic() - since) * 1000

    def _size(self):
        path = os.path.join(self.workshop.logs, self.log)
        return os.path.getsize(path) if os.path.exists(path) else 0

    def output(self):
        """What this process has logged."""
        with open(os.path.join(self.workshop.logs, self.log), "rb") as log:
            log.seek(self.told)
            return log.read().decode(errors="replace")

    def whole_output(self):
        """What it and those before it have logged."""
        with open(os.path.join(self.workshop.logs, self.log), encoding="utf-8") as log:
            return log.read()

    def wait_for(self, text, *others):
        """Until this process has logged that text."""
        wait_until(f"{self.name} logs '{text}'", lambda: text in self.output(),
                   [self.process, *others])  # fmt: skip

    def kill(self):
        self.process.kill()
        self.process.wait()

    def take_over(self):
        """Has another guestio-blk take this one's place, which ends by itself with status 0. A disk
        that is slow at the moment may keep it from that: then it is tried again."""
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
        wait_until(f"{self.name} has left its place", lambda: before.poll() is not None)
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
        """How many requests it has answered since it was started."""
        kinds = self.ask("statistics")["disks"][0]["requests"]
        return sum(kind["requests"] for kind in kinds.values())

    def let_work(self, requests, *others):
        """Until it has answered so many more."""
        enough = self.requests() + requests
        wait_until(f"{self.name} answers {requests} requests",
                   lambda: self.requests() >= enough, [self.process, *others])  # fmt: skip

    def stop(self):
        """It has to end by itself on SIGTERM, with status 0."""
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired as late:
            raise Failure(f"{self.name} does not end on SIGTERM") from late
        if status != 0:
            raise Failure(f"{self.name} ended with {status} on SIGTERM")


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


class Console:
    """What a guest tells, from whichever QEMU it runs in: lines that begin with @guestio."""

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
        """Whether a whole line that begins so is there."""
        self.listen(end)
        place = self.text.find(f"\n@guestio {line}")
        return place >= 0 and "\n" in self.text[place + 1 :]

    def fact(self, name):
        """What the guest told under that name last."""
        start = f"@guestio fact {name} "
        facts = [line for line in self.text.splitlines() if line.startswith(start)]
        if not facts:
            raise Failure(f"the guest told no '{name}'")
        return facts[-1].removeprefix(start)


def disk_words(identity, path, *options):
    """QEMU's options for a disk behind a vhost-user socket, which it looks for again once a second."""
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
        """Until the guest has told a line that begins so."""
        wait_until(f"the guest says '{line}'", lambda: console.has(self.end, line),
                   [self.process, *others])  # fmt: skip

    def say(self, line):
        """A line for the guest's console."""
        self.end.setblocking(True)
        self.end.sendall(line.encode() + b"\n")

    def wait(self):
        """Until the guest has switched itself off."""
        wait_until("QEMU ends", lambda: self.process.poll() is not None)
        if self.process.returncode != 0:
            raise Failure(f"QEMU ended with {self.process.returncode}")

    def quit(self):
        self.monitor.ask("quit")
        self.wait()
        self.end.close()


def main(logs, run):
    """Runs it in a workshop. Gives the exit status."""
    workshop = Workshop(logs)
    try:
        run(workshop)
        return 0
    except Failure as failure:
        print(f"FAILED: {failure}\nLogs are in {logs}", file=sys.stderr)
        return 1
    finally:
        workshop.end()
