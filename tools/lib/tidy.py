#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs clang-tidy-19 over our own sources of a build directory.

A source that has passed is skipped until one of its inputs changes: its text, the text of an included
file (as recorded by ninja at the last build), its compile command, .clang-tidy or the version of
clang-tidy. Sources never built have no such record and are always checked.

Usage: tidy.py BUILD_DIRECTORY BUILT_DIRECTORY

The compile commands come from the former, ninja's records from the latter, a built one.
"""

import concurrent.futures
import functools
import hashlib
import json
import os
import pathlib
import subprocess
import sys

TIDY = "clang-tidy-19"


def output_of(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@functools.cache
def digest_of(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def recorded_inputs(build):
    """Source -> the inputs of its object, from ninja's record of dependencies. An object may have
    several sources."""
    inputs, current, is_valid = {}, [], False
    listing = subprocess.run(
        ["ninja", "-C", str(build), "-t", "deps"], check=False, capture_output=True, text=True
    ).stdout
    for line in listing.splitlines():
        if line.startswith("    "):
            path = os.path.normpath(build / line.strip())
            current.append(path)
            if is_valid and path.endswith(".cc"):
                inputs[path] = current
        elif ": #deps" in line:
            current = []
            is_valid = "(VALID)" in line
    return inputs


def key_of(entry, inputs, common):
    """The digest of this source's inputs; None without a record of them."""
    files = inputs.get(entry["file"])
    if not files:
        return None
    state = hashlib.sha256(common.encode())
    state.update(entry["command"].encode())
    try:
        for path in sorted(files):
            state.update(f"{path} {digest_of(path)}\n".encode())
    except OSError:
        return None
    return state.hexdigest()


def check(build, source):
    # The compile commands are g++'s: unknown flags are no finding.
    result = subprocess.run(
        [TIDY, "-p", str(build), "--quiet", "--warnings-as-errors=*",
         "--extra-arg-before=-Wno-unknown-warning-option",
         "--extra-arg-before=-Wno-ignored-gch", source],
        check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )
    return result.returncode == 0, (result.stdout + result.stderr).strip()


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    build, built = (pathlib.Path(word).resolve() for word in sys.argv[1:])
    root = pathlib.Path(__file__).resolve().parent.parent.parent
    tracked = {str(root / name) for name in output_of("git", "-C", str(root), "ls-files", "*.cc").split()}
    entries = json.loads((build / "compile_commands.json").read_text())
    entries = [entry for entry in entries if entry["file"] in tracked]
    config = root / ".clang-tidy"
    if not config.exists():
        sys.exit("error: .clang-tidy is missing")
    common = digest_of(config) + output_of(TIDY, "--version")
    inputs = recorded_inputs(built)
    stamps = build / "tidy-passed"
    stamps.mkdir(exist_ok=True)

    todo, current = [], set()
    for entry in entries:
        key = key_of(entry, inputs, common)
        if key:
            current.add(key)
        if not (key and (stamps / key).exists()):
            todo.append((entry["file"], key))
    for old in stamps.iterdir():
        if old.name not in current:
            old.unlink()

    print(f"clang-tidy: {len(entries)} sources, {len(entries) - len(todo)} unchanged since they passed")
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = {pool.submit(check, build, source): (source, key) for source, key in todo}
        for future in concurrent.futures.as_completed(futures):
            source, key = futures[future]
            passed, text = future.result()
            if passed:
                if key:
                    (stamps / key).touch()
            else:
                failed += 1
                print(f"{os.path.relpath(source, root)}:\n{text}\n", flush=True)
    if failed:
        sys.exit(f"error: clang-tidy found something in {failed} of {len(entries)} sources")


if __name__ == "__main__":
    main()
