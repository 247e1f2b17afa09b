#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measures many disks in one guestio-blk: docs/performance.md, "Several disks in one process".

    tools/measure_disks.py DISKS IMAGE one|all|idle [ROUNDS]

IMAGE: "null", or a directory for image files. One thread serves all disks on processor 1; the
clients run on processor 0.

    one   iodepth 32 on one disk; the other disks are connected with idle rings
    all   a client on each disk, 32 requests in flight in total (one each from 32 disks on)
    idle  no requests for ten seconds
"""
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

BIN = os.environ.get("GUESTIO_BIN", "build/release/bin")
IMAGE_BYTES = 16 << 20


def make_image(directory, index):
    path = os.path.join(directory, f"{index}.img")
    if not os.path.exists(path):
        with open(path, "wb") as image:
            image.write(os.urandom(IMAGE_BYTES))
            os.fsync(image.fileno())
    return path


class Server:
    def __init__(self, count, image, directory):
        self.sockets = [os.path.join(directory, f"{i}.sock") for i in range(count)]
        words = ["taskset", "-c", "1", f"{BIN}/guestio-blk", "--threads", "1"]
        for i, socket in enumerate(self.sockets):
            file = "null:1G" if image == "null" else make_image(image, i)
            words += ["--disk", f"socket-path={socket},blk-file={file}"]
        self.process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        while not all(os.path.exists(socket) for socket in self.sockets):
            time.sleep(0.02)

    def cpu_seconds(self):
        """CPU time of all threads so far."""
        tasks = f"/proc/{self.process.pid}/task"
        times = [open(f"{tasks}/{task}/schedstat").read().split()[0] for task in os.listdir(tasks)]
        return sum(map(int, times)) / 1e9

    def client(self, index, depth, runtime):
        words = ["taskset", "-c", "0", f"{BIN}/guestio-load", "run", "--socket-path",
                 self.sockets[index], "--rw", "randread", "--bs", "4k", "--iodepth", str(depth),
                 "--runtime", str(runtime), "--output-format=json"]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def measure(self, depths):
        """IOPS and CPU µs/op of the server."""
        before = self.cpu_seconds()
        clients = [self.client(i, depth, 2) for i, depth in enumerate(depths)]
        reads = [json.loads(c.communicate()[0])["jobs"][0]["read"] for c in clients]
        spent = self.cpu_seconds() - before
        return sum(r["iops"] for r in reads), spent / sum(r["total_ios"] for r in reads) * 1e6


def main():
    count, image, mode = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 3
    with tempfile.TemporaryDirectory() as directory:
        server = Server(count, image, directory)
        idle = []
        if mode != "all":
            # A stopped client leaves its rings running and idle.
            idle = [server.client(i, 1, 1000) for i in range(mode == "one", count)]
            time.sleep(0.5 + 0.02 * count)
            for client in idle:
                client.send_signal(signal.SIGSTOP)
            time.sleep(0.5)
        if mode == "idle":
            before = server.cpu_seconds()
            time.sleep(10)
            spent_ms = (server.cpu_seconds() - before) * 1e3
            print(f"{count} disks, {image}, idle: {spent_ms:.3f} ms CPU in 10 s")
        else:
            depths = [32] if mode == "one" else [max(1, 32 // count)] * count
            results = [server.measure(depths) for _ in range(rounds)]
            iops = statistics.median(r[0] for r in results)
            cost = statistics.median(r[1] for r in results)
            print(f"{count} disks, {image}, {mode}: {iops:.0f} IOPS, {cost:.2f} CPU µs/op")
        for client in idle:
            client.kill()
        server.process.terminate()
        server.process.wait()


if __name__ == "__main__":
    main()
