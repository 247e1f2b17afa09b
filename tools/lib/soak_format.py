# SPDX-License-Identifier: MIT
"""qcow2 images under verified load, for soak_disks.py: the daemon and guestio-blk are killed, and
guestio-blk is replaced. Each image is checked at the end."""

import os
import signal
import subprocess

from machine import Failure, wait_until

MIB = 1 << 20
BYTES = 32 * MIB


def run_command(*words):
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failure(f"{' '.join(words)}: {done.stdout}{done.stderr}")


def make_image(soak, name):
    """An overlay of 32 MiB of data."""
    base = os.path.join(soak.workshop.logs, f"{name}.base")
    overlay = os.path.join(soak.workshop.logs, f"{name}.qcow2")
    with open(base, "wb") as image:
        image.write(os.urandom(BYTES))
    run_command("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", overlay)
    return overlay


def judge(overlay):
    """A daemon that was killed leaks clusters at most."""
    run_command("qemu-img", "check", "-q", "-r", "leaks", overlay)
    run_command("qemu-img", "check", "-q", overlay)


def children_of(parent):
    with open(f"/proc/{parent}/task/{parent}/children", encoding="utf-8") as children:
        return [int(pid) for pid in children.read().split()]


def daemon_of(backend):
    """The qemu-storage-daemon; None while there is none."""
    try:
        supervisors = children_of(backend.process.pid)
        return next((pid for pid in children_of(supervisors[0])), None) if supervisors else None
    except FileNotFoundError:
        return None


def kills_of_the_daemon(soak):
    overlay = make_image(soak, "daemon")
    backend = soak.backend("daemon", overlay, "--format", "qcow2")

    def kill():
        daemon = wait_until("a daemon runs", lambda: daemon_of(backend), [backend.process])
        os.kill(daemon, signal.SIGKILL)
        wait_until("another daemon runs", lambda: daemon_of(backend) not in (None, daemon),
                   [backend.process])  # fmt: skip

    turns = soak.under_load(backend, soak.rounds, kill)
    backend.stop()
    judge(overlay)
    return f"qemu-storage-daemon killed {turns} times"


def kills_of_the_backend(soak):
    overlay = make_image(soak, "backend")
    backend = soak.backend("backend", overlay, "--format", "qcow2")
    turns = soak.rounds
    load = soak.load(backend, 4000 * turns, "--reconnect")
    done = 0
    while done < turns and load.is_running():
        enough = backend.requests() + 1000
        wait_until("progress", lambda: not load.is_running() or backend.requests() >= enough,
                   [backend.process])  # fmt: skip
        backend.kill()
        backend.start()
        done += 1
    load.finish()
    backend.stop()
    judge(overlay)
    return f"guestio-blk killed {done} times"


def takeovers(soak):
    overlay = make_image(soak, "takeover")
    backend = soak.backend("takeover", overlay, "--format", "qcow2")
    turns = soak.under_load(backend, max(1, soak.rounds // 5), backend.take_over)
    backend.stop()
    judge(overlay)
    return f"guestio-blk replaced in place {turns} times"


def discards(soak):
    """Verified loads with discards, each on a new image: what QEMU's driver corrupts unaided."""
    for turn in range(soak.rounds):
        overlay = make_image(soak, "discards")
        backend = soak.backend("discards", overlay, "--format", "qcow2")
        soak.load(backend, 10000, seed=turn + 1).finish()
        backend.stop()
        run_command("qemu-img", "check", "-q", overlay)
    return f"{soak.rounds} loads"


def scenarios(soak):
    yield "kills-of-the-daemon", lambda: kills_of_the_daemon(soak)
    yield "kills-of-guestio-blk", lambda: kills_of_the_backend(soak)
    yield "takeovers", lambda: takeovers(soak)
    yield "discards", lambda: discards(soak)
