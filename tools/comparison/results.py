# SPDX-License-Identifier: MIT
"""What was measured, kept as JSON so that rows measured one after another make one document."""

import json
import statistics

FIGURES = ("iops", "p50_ns", "p99_ns", "p999_ns", "cpu_ns")


class Results:
    """rows: {name: {contender: {"samples": [one a round], "calls": system calls a request}}}."""

    def __init__(self, data=None):
        self._data = {"machine": {}, "rows": {}, "idle": {}, "profiles": {}} | (data or {})

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
        """{row's name: {"title": …, "stages": {stage: nanoseconds for each request}}}."""
        return self._data["profiles"]

    @property
    def idle(self):
        return self._data["idle"]

    def begin(self, row):
        """What was known about the row is measured anew."""
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
        """Median, least and greatest over the rounds; nothing if there is none."""
        values = [sample[name] for sample in self.samples(row, key)]
        return Figure(statistics.median(values), min(values), max(values)) if values else None

    def ratio(self, row, key, other, name):
        """Of two contenders, as the median of the rounds' own ratios: the machine's moods last
        longer than a round."""
        entries = self._data["rows"].get(row.name, {})
        if key not in entries or other not in entries:
            return None
        pairs = zip(entries[key]["samples"], entries[other]["samples"], strict=False)
        # A server that got no processor time in its round has no figure to divide by.
        values = [ours[name] / theirs[name] for ours, theirs in pairs
                  if ours and theirs and theirs[name]]
        return Figure(statistics.median(values), min(values), max(values)) if values else None


class Figure:
    """A median and its spread."""

    def __init__(self, median, least, greatest):
        self.median = median
        self.least = least
        self.greatest = greatest
