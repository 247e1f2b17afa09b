#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Copies an NBD export to nowhere with nbdcopy, again and again, and prints the rate as fio does.
nbdcopy tells no latencies.

Usage: copy_repeatedly.py URI EXPORT_BYTES REQUEST_BYTES SECONDS
"""

import json
import subprocess
import sys
import time


def main(uri, size, request, seconds):
    copies, begin = 0, time.monotonic()
    while time.monotonic() - begin < seconds:
        subprocess.run(["nbdcopy", f"--request-size={request}", uri, "null:"], check=True)
        copies += 1
    iops = copies * size / request / (time.monotonic() - begin)
    percentile = {name: 0 for name in ("50.000000", "99.000000", "99.900000")}
    print(json.dumps({"jobs": [{"read": {"iops": iops, "clat_ns": {"percentile": percentile}},
                                "write": {"iops": 0}}]}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
