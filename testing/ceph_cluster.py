#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A Ceph cluster of one monitor and one OSD for tests, as an ordinary user on loopback.

    ceph_cluster.py DIR    sets the cluster up in DIR, prints "ready", and runs it until it is ended

The OSD keeps its data in a sparse file (bluestore), so it survives a kill. Both daemons die with
this process, and this process dies with its parent. It is up in about 5 s. Files in DIR:

    ceph.conf    for clients; keys of client.admin, and of client.vm with the rights of a VM's host
    osd.pid      the OSD's process: kill, stop or continue it by signals; SIGUSR1 to this process
                 starts a killed one again
    log/         output of the daemons

Tests in Python use the class Cluster.
"""
import contextlib
import ctypes
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid

try:
    import rados
except ImportError:
    # Comes with ceph-common, for Debian's own python3.
    sys.path.append("/usr/lib/python3/dist-packages")
    import rados

PR_SET_PDEATHSIG = 1
POOL = "rbd"

CONF = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{port},v1:127.0.0.1:{legacy_port}]
mon initial members = a
public network = 127.0.0.0/8
cluster network = 127.0.0.0/8
ms bind ipv6 = false
keyring = {dir}/keyring
auth allow insecure global id reclaim = false
run dir = {dir}/run
crash dir = {dir}/run
log to stderr = false
[client]
admin socket =
[mon]
mon data = {dir}/mon
log file = {dir}/log/mon.log
mon allow pool size one = true
mon warn on pool no redundancy = false
mon data avail warn = 1
mon data avail crit = 1
mon max pg per osd = 1000
mon osd adjust heartbeat grace = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg autoscale mode = off
paxos propose interval = 0.02
paxos min wait = 0.01
[osd]
osd data = {dir}/osd
log file = {dir}/log/osd.log
ms bind port min = {osd_port}
ms bind port max = {last_port}
osd objectstore = bluestore
bluestore block size = {bytes}
bluestore block db create = false
bluestore block wal create = false
osd crush chooseleaf type = 0
osd class load list = *
osd class default list = *
osd max object name len = 256
osd memory target = 1073741824
osd op num shards = 2
osd heartbeat grace = 4
osd fast shutdown = true
"""


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def free_port_range(count):
    """The first of `count` ports that nobody listens on, below the ephemeral ones. Processes start
    to look in different places."""
    start = 12000 + os.getpid() * 16 % 16000
    for port in range(start, start + 4000, count):
        with contextlib.ExitStack() as stack:
            try:
                for offset in range(count):
                    probe = stack.enter_context(socket.socket())
                    probe.bind(("127.0.0.1", port + offset))
            except OSError:
                continue
            return port
    raise RuntimeError("no free ports for a cluster")


class Cluster:
    """Set up by the constructor. close() ends it, and leaves its folder."""

    def __init__(self, folder, gibibytes=8):
        self.folder = pathlib.Path(folder).absolute()
        self.conf = self.folder / "ceph.conf"
        self.daemons = {}
        for name in ("mon", "osd", "log", "run"):
            (self.folder / name).mkdir(parents=True)
        port = free_port_range(16)
        fsid = str(uuid.uuid4())
        self.conf.write_text(CONF.format(
            dir=self.folder, fsid=fsid, port=port, legacy_port=port + 1, osd_port=port + 2,
            last_port=port + 15, bytes=gibibytes << 30))
        try:
            self._start_monitor(fsid, port)
            self._make_osd()
            self.start_osd()
            self._command("osd pool create", pool=POOL, pg_num=8, pgp_num=8)
            self._command("osd pool application enable", pool=POOL, app="rbd")
        except BaseException:
            self.close()
            raise

    def _run(self, *words):
        subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True)

    def _daemon(self, name, *words):
        with open(self.folder / "log" / f"{name}.out", "ab") as output:
            process = subprocess.Popen(
                [*words, "-f", "--conf", self.conf], stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, preexec_fn=die_with_parent, start_new_session=True)
        self.daemons[name] = process
        (self.folder / f"{name}.pid").write_text(f"{process.pid}\n")

    def _start_monitor(self, fsid, port):
        keyring = self.folder / "keyring"
        keys = {"mon.": {"mon": "allow *"},
                "client.admin": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
                "client.vm": {"mon": "profile rbd", "osd": f"profile rbd pool={POOL}"},
                "osd.0": {"mon": "allow profile osd", "osd": "allow *"}}
        for number, (name, caps) in enumerate(keys.items()):
            words = ["ceph-authtool", str(keyring), "--gen-key", "-n", name]
            if number == 0:
                words.append("--create-keyring")
            for service, cap in caps.items():
                words += ["--cap", service, cap]
            self._run(*words)
        monmap = str(self.folder / "monmap")
        address = f"[v2:127.0.0.1:{port},v1:127.0.0.1:{port + 1}]"
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monmap)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--conf", str(self.conf), "--monmap", monmap,
                  "--keyring", str(keyring))
        self._daemon("mon", "ceph-mon", "-i", "a")

    def _make_osd(self):
        osd_uuid = str(uuid.uuid4())
        self._command("osd new", uuid=osd_uuid)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd_uuid, "--conf",
                  str(self.conf))

    def _command(self, prefix, **arguments):
        # The messenger reconnects until the monitor listens.
        with rados.Rados(conffile=str(self.conf), conf={"client_mount_timeout": "60"}) as client:
            status, reply, text = client.mon_command(
                json.dumps({"prefix": prefix, "format": "json", **arguments}), b"")
            if status != 0:
                raise RuntimeError(f"{prefix}: {text}")
            return reply

    def start_osd(self):
        """Starts the OSD, and waits until it serves."""
        before = self._osd()["up_from"]
        self._daemon("osd", "ceph-osd", "-i", "0")
        for _ in range(3000):
            osd = self._osd()
            if osd["up"] and osd["up_from"] != before:
                return
            if self.daemons["osd"].poll() is not None:
                break
            time.sleep(0.02)
        raise RuntimeError(f"the OSD does not start: see {self.folder}/log")

    def _osd(self):
        return json.loads(self._command("osd dump"))["osds"][0]

    @property
    def osd_pid(self):
        return self.daemons["osd"].pid

    def kill_osd(self):
        self.daemons["osd"].kill()
        self.daemons["osd"].wait()

    def signal_osd(self, number):
        """SIGSTOP and SIGCONT: an OSD that does not answer for a while."""
        self.daemons["osd"].send_signal(number)

    def fence(self, address):
        """Puts a client ("127.0.0.1:0/123") on the blocklist."""
        self._command("osd blocklist", blocklistop="add", addr=address)

    def close(self):
        for process in self.daemons.values():
            process.kill()
        for process in self.daemons.values():
            process.wait()


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    die_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signals = {signal.SIGUSR1, signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    cluster = Cluster(sys.argv[1])
    print("ready", flush=True)
    while signal.sigwait(signals) == signal.SIGUSR1:
        cluster.daemons["osd"].wait()
        cluster.start_osd()
    cluster.close()
    shutil.rmtree(cluster.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
