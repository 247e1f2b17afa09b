# SPDX-License-Identifier: MIT
"""The server's CPU time by stage of a request, from perf samples."""

import collections
import pathlib
import subprocess

from . import processes, stages
from .processes import BenchError

SAMPLES_PER_SECOND = 7000
SECONDS = 2.0


def record(pid, seconds, path):
    """Samples all threads of a process. The event cpu-clock needs no hardware counters. It charges
    time with interrupts disabled to the place of their re-enabling."""
    done = subprocess.run(
        ["perf", "record", "-q", "-g", "-F", str(SAMPLES_PER_SECOND), "-e", "cpu-clock", "-o",
         str(path), "-p", str(pid), "--", "sleep", str(seconds)],
        capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"perf recorded nothing: {done.stderr.strip()}")


def shares(path, program):
    """{stage: share of all samples}."""
    chains = list(read_chains(path))
    if not chains:
        raise BenchError("perf took no sample")
    sources = locate(program, {chain[0][0] for chain in chains if chain[0][2] == str(program)})
    count = collections.Counter(stage_of(chain, program, sources) for chain in chains)
    return {stage: number / len(chains) for stage, number in count.items()}


def read_chains(path):
    """Call chains, innermost frame first, as (address in its file, function, file)."""
    done = subprocess.run(["perf", "script", "-i", str(path), "-F", "ip,sym,dso", "--max-stack",
                           "24"], capture_output=True, text=True, check=False)
    chain = []
    for line in done.stdout.splitlines() + [""]:
        fields = line.split()
        if fields:
            chain.append((fields[0], " ".join(fields[1:-1]), fields[-1].strip("()")))
        elif chain:
            yield chain
            chain = []


def locate(program, addresses):
    """{address: source files, innermost first}."""
    ordered = sorted(addresses)
    # -a prints each address before its source lines.
    done = subprocess.run(["addr2line", "-a", "-i", "-e", str(program)], input="\n".join(ordered),
                          capture_output=True, text=True, check=False)
    found = {}
    files = []
    for line in done.stdout.splitlines():
        if line.startswith("0x"):
            files = found.setdefault(int(line, 16), [])
        else:
            files.append(line.split(":")[0])
    return found


def stage_of(chain, program, sources):
    address, symbol, file = chain[0]
    if "kernel" in file:
        return stages.stage_of_kernel([name for _, name, where in chain if "kernel" in where])
    if file == str(program):
        for source in sources.get(int(address, 16), []):
            stage = stages.stage_of_source(source)
            if stage:
                return stage
        return stages.stage_of_symbol(symbol) or "libraries"
    return "copies of bytes" if "mem" in symbol else "libraries"


def require_tools():
    processes.require_tools("perf", "addr2line")


def profile(bench, contender, row, program, scratch):
    """{stage: ns/op}. The total comes from a run without perf, which slows the server down; the
    shares come from the samples."""
    path = pathlib.Path(scratch) / "perf.data"
    cost = bench.sample(contender, row)["cpu_ns"]
    bench.watch(contender, row, SECONDS + 0.5, lambda pid: record(pid, SECONDS, path))
    return {stage: share * cost for stage, share in shares(path, program).items()}
