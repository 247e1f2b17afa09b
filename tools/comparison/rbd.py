# SPDX-License-Identifier: MIT
"""The Ceph cluster of the comparison, fio's RBD engine, and many images in one guestio-blk."""

import contextlib
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

from . import measure, processes
from .processes import BenchError

TARGET = "rbd"
POOL = "rbd"
USER = "vm"
BUSY = 8  # images of the measurement of many images
IMAGES = 32
DEPTH = 4  # of each busy image: 32 requests in flight in all
SMALL = 16 << 20


class Cluster:
    """The tests' cluster of one monitor and one OSD, on the client's core."""

    def __init__(self, folder):
        sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "testing"))
        try:
            import ceph_cluster  # needs Ceph's Python modules
        except ImportError as error:
            raise BenchError(f"no Ceph cluster: {error} (run ./dev setup bench)") from None
        own, client_core = os.sched_getaffinity(0), processes.cores()[1]
        os.sched_setaffinity(0, {client_core})  # the daemons inherit it
        try:
            self._cluster = ceph_cluster.Cluster(folder)
        finally:
            os.sched_setaffinity(0, own)
        # As guestio-blk has it. The configuration ends with the section of the OSD.
        self.conf = self._cluster.conf
        with open(self.conf, "a", encoding="utf-8") as file:
            file.write("[client]\nrbd cache = false\n")

    def close(self):
        self._cluster.close()

    def uri(self, name):
        return f"rbd:{POOL}/{name}?id={USER}&conf={self.conf}"

    def create(self, name, size):
        """A filled image."""
        run("rbd", "--conf", self.conf, "create", "--size", f"{size >> 20}M", "--image-feature",
            "layering,exclusive-lock", name)  # fmt: skip
        run("env", f"CEPH_CONF={self.conf}", "fio", "--name=fill", "--ioengine=rbd",
            f"--clientname={USER}", f"--pool={POOL}", f"--rbdname={name}", "--rw=write", "--bs=1M",
            "--iodepth=8", f"--size={size}")  # fmt: skip


def run(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"{' '.join(map(str, words))}: {done.stdout}{done.stderr}")


@contextlib.contextmanager
def cluster():
    # Its own folder: the paths of the rows' fixture end before it does.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="guestio-ceph."))
    try:
        with contextlib.closing(Cluster(folder / "cluster")) as started:
            yield started
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def serving(size):
    """The URI of a filled image for the duration of the block."""
    with cluster() as started:
        started.create("disk", size)
        yield started.uri("disk")


def parts_of(uri):
    """The image and the configuration of a URI that Cluster.uri() has made."""
    image, _, conf = uri.removeprefix(f"rbd:{POOL}/").partition(f"?id={USER}&conf=")
    return image, conf


def daemon_disk(uri):
    """For qemu-storage-daemon, without librbd's cache."""
    image, conf = parts_of(uri)
    return (f"driver=rbd,node-name=d,pool={POOL},image={image},conf={conf},user={USER},"
            "cache.direct=on")


class Fio:
    """fio's RBD engine: client and driver in one process, on the server's core."""
    serves = False

    def __init__(self, key):
        self.key = key
        self.label = "fio --ioengine=rbd"

    def supports(self, row):
        return row.target == TARGET

    def command(self, row, fixture, seconds, ramp):
        image, conf = parts_of(fixture.images[TARGET])
        return ["env", f"CEPH_CONF={conf}", "fio", "--name=rbd", "--ioengine=rbd",
                f"--clientname={USER}", f"--pool={POOL}", f"--rbdname={image}",
                f"--size={fixture.image_bytes}", f"--rw={row.rw}", f"--bs={row.block}",
                f"--iodepth={row.depth}", "--thread", "--norandommap", "--time_based",
                f"--runtime={seconds * 1000:.0f}ms", f"--ramp_time={ramp * 1000:.0f}ms",
                "--output-format=json"]


def disk_words(name, scratch, uri):
    return ["--disk", f"name={name},socket-path={scratch / name}.sock,blk-file={uri}"]


def start_servers(stack, fixture, groups):
    """guestio-blk for each group of disks, given as names and URIs. Returns the processes."""
    servers = []
    for index, group in enumerate(groups):
        words = [fixture.programs / "guestio-blk"]
        for name, uri in group:
            words += disk_words(name, fixture.scratch, uri)
        log = fixture.scratch / f"many{index}.log"
        server = stack.enter_context(processes.running(processes.cores()[0], words, log))
        for name, _ in group:
            processes.wait_for_socket(fixture.scratch / f"{name}.sock", server, log)
        servers.append(server)
    return servers


def load(stack, fixture, names, seconds, ramp):
    """The IOPS of all these disks together."""
    clients = []
    for name in names:
        words = [fixture.programs / "guestio-load", "run", "--socket-path",
                 fixture.scratch / f"{name}.sock", "--rw", "randread", "--bs", 4096, "--iodepth",
                 DEPTH, "--runtime", seconds, "--ramp-time", ramp, "--output-format", "json"]
        client = processes.start(processes.cores()[1], words, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE)
        stack.callback(processes.stop, client)
        clients.append(client)
    outputs = [processes.finish(client, seconds + 120) for client in clients]
    return sum(measure.parse_outcome(output)["iops"] for output in outputs)


def many_images(fixture, seconds, ramp, rounds):
    """IMAGES images in one process, BUSY of them under load, beside BUSY processes of one image."""
    result = {"threads": 0, "one": [], "many": []}
    with cluster() as started:
        uris = {}
        for index in range(IMAGES):
            name = f"image{index}"
            started.create(name, SMALL)
            uris[name] = started.uri(name)
        busy = list(uris)[:BUSY]
        together = [list(uris.items())]
        apart = [[(name, uris[name])] for name in busy]
        for turn in range(rounds):
            kinds = [("one", together), ("many", apart)]
            for kind, groups in kinds if turn % 2 == 0 else kinds[::-1]:
                with contextlib.ExitStack() as stack:
                    servers = start_servers(stack, fixture, groups)
                    result[kind].append(load(stack, fixture, busy, seconds, ramp))
                    if kind == "one":
                        threads = len(os.listdir(f"/proc/{servers[0].pid}/task"))
                        result["threads"] = max(result["threads"], threads)
    return result


def many_lines(result):
    """The table of many_images()."""
    if not result:
        return []
    one, many = statistics.median(result["one"]), statistics.median(result["many"])
    ratio = statistics.median(a / b for a, b in zip(result["one"], result["many"]))
    return ["", f"{IMAGES} RBD images in one guestio-blk, {BUSY} of them with {DEPTH} reads of 4 KiB "
            f"in flight each, beside {BUSY} processes of one image:", "",
            "| threads | kIOPS, one process | kIOPS, a process for each | ratio |",
            "| ---: | ---: | ---: | ---: |",
            f"| {result['threads']} | {one / 1000:.1f} | {many / 1000:.1f} | {ratio:.2f} |"]
