# SPDX-License-Identifier: MIT
"""The results as Markdown."""

from . import contenders, rows, stages

FIGURES = ("<!-- bench:begin (written by ./dev bench) -->", "<!-- bench:end -->")
PROFILE = ("<!-- profile:begin (written by ./dev bench --profile) -->", "<!-- profile:end -->")

TITLES = {"null": "Null disk", "ext4": "File with direct I/O",
          "tmpfs": "File in memory (tmpfs) with direct I/O"}


def replace_between_markers(document, markers, section):
    """The document with `section` in place of what stood between the markers."""
    head, begin, rest = document.partition(markers[0])
    _, end, tail = rest.partition(markers[1])
    if not begin or not end:
        raise ValueError(f"the markers '{markers[0]}' and '{markers[1]}' are not there")
    return f"{head}{begin}\n\n{section.strip()}\n\n{end}{tail}"


def describe(row):
    """The work of a row in words."""
    size = f"{row.block // rows.KIB} KiB"
    order = "" if row.rw.startswith("rand") else "sequential "
    words = [f"{size} {order}{row.rw.removeprefix('rand')}, depth {row.depth}"]
    if row.segments > 1:
        words.append(f"{row.segments} segments")
    if row.offset:
        words.append(f"data off by {row.offset}")
    if row.queues > 1:
        words.append(f"{row.queues} queues")
    if row.poll:
        words.append("client polls")
    return ", ".join(words)


def number(value):
    """Three digits that mean something."""
    if value >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(figure, scale):
    if figure is None:
        return "–"
    median, least, greatest = (value * scale for value in
                               (figure.median, figure.least, figure.greatest))
    return f"{number(median)} ({number(least)}–{number(greatest)})"


def ratio(figure):
    return "–" if figure is None else f"{figure.median:.2f}"


def table(header, lines):
    yield "| " + " | ".join(header) + " |"
    yield "| --- |" + " ---: |" * (len(header) - 1)
    for line in lines:
        yield "| " + " | ".join(line) + " |"


PEER_RATIOS = {"time/I/O ÷ qsd": "cpu_ns", "IOPS ÷ qsd": "iops", "p50 ÷ qsd": "p50_ns",
               "p99 ÷ qsd": "p99_ns"}
RAW_RATIOS = {"time/I/O ÷ raw": "cpu_ns", "IOPS ÷ raw": "iops"}


def ratio_table(results, chosen):
    """guestio-blk beside the others; the raw ring's columns only where there is one."""
    columns = [(title, contenders.PEER, name) for title, name in PEER_RATIOS.items()]
    if any(results.samples(row, contenders.RAW) for row in chosen):
        columns += [(title, contenders.RAW, name) for title, name in RAW_RATIOS.items()]
    lines = []
    for row in chosen:
        cells = [results.ratio(row, contenders.OURS, other, name) for _, other, name in columns]
        if any(cells):
            lines.append([describe(row), *map(ratio, cells)])
    if lines:
        yield from ["What guestio-blk has, divided by what qemu-storage-daemon with io_uring (qsd) "
                    "and the raw ring have:", ""]
        yield from table(["work", *(title for title, _, _ in columns)], lines)
        yield ""


def figure_lines(results, chosen, parties):
    for row in chosen:
        for party in parties:
            if not results.samples(row, party.key):
                continue
            latencies = [results.figure(row, party.key, name)
                         for name in ("p50_ns", "p99_ns", "p999_ns")]
            calls = results.calls(row, party.key)
            yield [describe(row), party.label,
                   spread(results.figure(row, party.key, "iops"), 1e-3),
                   *(number(figure.median / 1000) for figure in latencies),
                   spread(results.figure(row, party.key, "cpu_ns"), 1e-3),
                   "–" if calls is None else f"{calls:.3f}"]


def tables(results, chosen, parties):
    """The tables alone: one of ratios and one of figures for each kind of disk."""
    for target in rows.TARGETS:
        here = [row for row in chosen if row.target == target and not row.growth]
        figures = list(figure_lines(results, here, parties))
        if not figures:
            continue
        yield from ["", f"### {TITLES[target]}", ""]
        yield from [f"![{TITLES[target]}](img/bench-{target}.svg)", ""]
        yield from ratio_table(results, here)
        yield from ["Thousand I/Os a second, latencies in µs, processor time of the server in µs "
                    "for each I/O, system calls of the server for each I/O:", ""]
        yield from table(["work", "server", "kIOPS (min–max)", "p50", "p99", "p99.9",
                          "time/I/O (min–max)", "calls/I/O"], figures)


def growth_table(results, chosen, parties):
    served = [party for party in parties
              if party.serves and any(party.takes(row) for row in chosen if row.growth)]
    lines = [line for line in figure_lines(results, chosen, served) if line]
    if not lines:
        return
    yield from ["", "### How cost grows", "", "![How cost grows](img/bench-growth.svg)", "",
                "On the null disk, where nothing hides it; columns as above.", ""]
    yield from table(["work", "server", "kIOPS (min–max)", "p50", "p99", "p99.9",
                      "time/I/O (min–max)", "calls/I/O"], lines)


def idle_table(results, parties):
    lines = [[party.label, f"{idle['cpu_ns'] / 1000:.1f} µs in {idle['seconds']:.0f} s",
              str(idle["switches"])]
             for party in parties if (idle := results.idle.get(party.key))]
    if lines:
        yield from ["", "### Idle, connected", ""]
        yield from table(["server", "processor time", "times it ran"], lines)


def section(results, chosen, parties):
    machine = results.machine
    lines = ["## Figures", ""]
    if machine:
        lines += [f"Measured on {machine['date']} with `./dev bench`: {machine['processor']}, "
                  f"{machine['cores']} cores, Linux {machine['kernel']}, "
                  f"{machine['peer']}, {machine['fio']}; {machine['filesystem']}; "
                  f"{machine['rounds']} rounds of {machine['seconds']} s. "
                  "Medians over the rounds, with the least and the greatest.", ""]
    lines += tables(results, chosen, parties)
    lines += growth_table(results, growth_rows(results, chosen), parties)
    lines += idle_table(results, parties)
    return "\n".join(lines) + "\n"


def profile_section(profiles):
    """One column for each row that was profiled, one line for each stage of a request."""
    if not profiles:
        return ""
    columns = list(profiles.values())
    lines = []
    for stage in stages.all_stages():
        cells = [column["stages"].get(stage, 0) for column in columns]
        # Less than that is chance.
        if max(cells) >= 5:
            lines.append([stage, *(f"{cell:.0f}" if cell >= 1 else "–" for cell in cells)])
    lines.append(["**all**", *(f"**{sum(column['stages'].values()):.0f}**"
                               for column in columns)])
    return "\n".join(table(["nanoseconds of the server for each I/O",
                            *(column["title"] for column in columns)], lines))


def growth_rows(results, chosen):
    """The rows of the growth section: those of its own, and the comparison's that fit between."""
    def fits(row):
        return row.target == "null" and row.poll and row.rw == "randread" and row.queues == 1

    picked = [row for row in chosen if fits(row) and results.samples(row, contenders.OURS)]
    if not any(row.growth for row in picked):
        return []
    return sorted(picked, key=lambda row: (row.block, row.segments, row.depth))
