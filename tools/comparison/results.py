# SPDX-License-Identifier: MIT
"""Measurements, stored as JSON so that separate runs add up to one document."""

import json
import statistics

FIGURES = ("iops", "p50_ns", "p99_ns", "p999_ns", "cpu_ns")


class Results:
    """rows: {name: {contender: {"samples": [one per round], "calls": system calls per op}}}."""

    def __init__(self, data=None):
        self._data = {"machine": {}, "rows": {}, "idle": {}, "limits": [], "profiles": {},
                      "reconnects": [], "many_images": {}} | (data or {})

    @classmethod
    def load(cls, path):
        if not path.exists():
            return cls()
        return cls(json.loads(path.read_text(encoding="utf-8")))

    def save(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(self._data, indent=1), encoding="utf-8")
        part.replace(path)

    @property
    def machine(self):
        return self._data["machine"]

    @property
    def profiles(self):
        """{row name: {"title": …, "stages": {stage: ns/op}}}."""
        return self._data["profiles"]

    @property
    def idle(self):
        return self._data["idle"]

    @property
    def reconnects(self):
        """Seconds from an NBD server listening again to its first I/O, one per restart."""
        return self._data["reconnects"]

    @reconnects.setter
    def reconnects(self, times):
        self._data["reconnects"] = times

    @property
    def limits(self):
        """[{"limit": text, "work": text, "parts": the work of each disk / the limit}]."""
        return self._data["limits"]

    @property
    def many_images(self):
        """{"threads": number, "one" process and "many": IOPS, one per round}."""
        return self._data["many_images"]

    @many_images.setter
    def many_images(self, result):
        self._data["many_images"] = result

    def begin(self, row):
        """Discards the row's earlier samples."""
        self._data["rows"][row.name] = {}

    def add(self, row, key, sample):
        self._entry(row, key)["samples"].append(sample)

    def set_calls(self, row, key, calls):
        self._entry(row, key)["calls"] = calls

    def _entry(self, row, key):
        return self._data["rows"].setdefault(row.name, {}).setdefault(
            key, {"samples": [], "calls": None})

    def samples(self, row, key):
        entry = self._data["rows"].get(row.name, {}).get(key)
        return [sample for sample in entry["samples"] if sample] if entry else []

    def calls(self, row, key):
        entry = self._data["rows"].get(row.name, {}).get(key)
        return entry["calls"] if entry else None

    def figure(self, row, key, name):
        """Median, minimum and maximum over the rounds; None without samples."""
        values = [sample[name] for sample in self.samples(row, key)]
        return Figure.of(values)

    def ratio(self, row, key, other, name):
        """Ratio of two contenders: the median of the ratios of each round. Load on the machine
        lasts longer than a round and cancels out."""
        entries = self._data["rows"].get(row.name, {})
        if key not in entries or other not in entries:
            return None
        pairs = zip(entries[key]["samples"], entries[other]["samples"], strict=False)
        # A server without processor time in a round has a zero figure: no ratio.
        values = [ours[name] / theirs[name] for ours, theirs in pairs
                  if ours and theirs and theirs[name]]
        return Figure.of(values)


class Figure:
    """A median and its range."""

    def __init__(self, median, minimum, maximum):
        self.median = median
        self.minimum = minimum
        self.maximum = maximum

    @classmethod
    def of(cls, values):
        return cls(statistics.median(values), min(values), max(values)) if values else None
