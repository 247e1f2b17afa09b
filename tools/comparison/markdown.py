# SPDX-License-Identifier: MIT
"""Renders the results as Markdown."""

from . import contenders, nbd, rbd, rows, stages

FIGURES = ("<!-- bench:begin (written by ./dev bench) -->", "<!-- bench:end -->")
PROFILE = ("<!-- profile:begin (written by ./dev bench --profile) -->", "<!-- profile:end -->")

TITLES = {"null": "Null disk", "ext4": "File with direct I/O",
          "tmpfs": "File on tmpfs with direct I/O",
          "nbd": "NBD server (nbdkit with a disk in memory, Unix socket)",
          "rbd": "RBD image (one monitor and one OSD on this machine)"}


def replace_between_markers(document, markers, section):
    """The document with `section` between the markers."""
    head, begin, rest = document.partition(markers[0])
    _, end, tail = rest.partition(markers[1])
    if not begin or not end:
        raise ValueError(f"no markers '{markers[0]}' and '{markers[1]}' in the document")
    return f"{head}{begin}\n\n{section.strip()}\n\n{end}{tail}"


def describe(row):
    """The workload of a row in words."""
    size = f"{row.block // rows.KIB} KiB"
    order = "" if row.rw.startswith("rand") else "sequential "
    words = [f"{size} {order}{row.rw.removeprefix('rand')}, depth {row.depth}"]
    if row.segments > 1:
        words.append(f"{row.segments} segments")
    if row.offset:
        words.append(f"data misaligned by {row.offset}")
    if row.queues > 1:
        words.append(f"{row.queues} queues")
    if row.poll:
        words.append("client polls")
    return ", ".join(words)


def number(value):
    """Three significant digits."""
    if value >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(figure, scale):
    if figure is None:
        return "–"
    median, minimum, maximum = (value * scale for value in
                                (figure.median, figure.minimum, figure.maximum))
    return f"{number(median)} ({number(minimum)}–{number(maximum)})"


def ratio(figure):
    return "–" if figure is None else f"{figure.median:.2f}"


def table(header, lines):
    yield "| " + " | ".join(header) + " |"
    yield "| --- |" + " ---: |" * (len(header) - 1)
    for line in lines:
        yield "| " + " | ".join(line) + " |"


PEER_RATIOS = {"CPU/op ÷ qsd": "cpu_ns", "IOPS ÷ qsd": "iops", "p50 ÷ qsd": "p50_ns",
               "p99 ÷ qsd": "p99_ns"}
RAW_RATIOS = {"CPU/op ÷ raw": "cpu_ns", "IOPS ÷ raw": "iops"}
NBD_RATIOS = {"IOPS ÷ fio": (contenders.FIO_NBD, "iops"),
              "IOPS ÷ nbdcopy": (contenders.NBDCOPY, "iops")}
RBD_RATIOS = {"IOPS ÷ fio": (contenders.FIO_RBD, "iops"),
              "CPU/op ÷ fio": (contenders.FIO_RBD, "cpu_ns")}
FIGURE_COLUMNS = ["workload", "server", "kIOPS (min–max)", "p50 µs", "p99 µs", "p99.9 µs",
                  "CPU µs/op (min–max)", "calls/op"]


def ratio_table(results, chosen):
    """Ratios of guestio-blk to the peer and, where measured, to the raw ring."""
    columns = [(title, contenders.PEER, name) for title, name in PEER_RATIOS.items()]
    if any(results.samples(row, contenders.RAW) for row in chosen):
        columns += [(title, contenders.RAW, name) for title, name in RAW_RATIOS.items()]
    for target, ratios in ((nbd.TARGET, NBD_RATIOS), (rbd.TARGET, RBD_RATIOS)):
        if any(row.target == target for row in chosen):
            columns += [(title, other, name) for title, (other, name) in ratios.items()]
    lines = []
    for row in chosen:
        cells = [results.ratio(row, contenders.OURS, other, name) for _, other, name in columns]
        if any(cells):
            lines.append([describe(row), *map(ratio, cells)])
    if lines:
        yield from ["Ratios of guestio-blk to qemu-storage-daemon with io_uring (qsd) and to the raw "
                    "ring:", ""]
        yield from table(["workload", *(title for title, _, _ in columns)], lines)
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
    """One table of ratios and one of figures for each kind of disk."""
    for target in rows.TARGETS:
        here = [row for row in chosen if row.target == target and not row.growth]
        figures = list(figure_lines(results, here, parties))
        if not figures:
            continue
        yield from ["", f"### {TITLES[target]}", ""]
        yield from [f"![{TITLES[target]}](img/bench-{target}.svg)", ""]
        yield from ratio_table(results, here)
        yield from ["Completion latencies of the client, CPU time and system calls of the server:",
                    ""]
        yield from table(FIGURE_COLUMNS, figures)


def growth_table(results, chosen, parties):
    served = [party for party in parties
              if party.serves and any(party.supports(row) for row in chosen if row.growth)]
    lines = [line for line in figure_lines(results, chosen, served) if line]
    if not lines:
        return
    yield from ["", "### Scaling", "", "![Scaling](img/bench-growth.svg)", "",
                "On the null disk; columns as above.", ""]
    yield from table(FIGURE_COLUMNS, lines)


def idle_table(results, parties):
    lines = [[party.label, f"{idle['cpu_ns'] / 1000:.1f} µs in {idle['seconds']:.0f} s",
              str(idle["switches"])]
             for party in parties if (idle := results.idle.get(party.key))]
    if lines:
        yield from ["", "### Idle, connected", ""]
        yield from table(["server", "CPU time", "context switches"], lines)


def limit_table(results):
    lines = [[line["limit"], line["work"], f"{sum(line['parts']):.4f}",
              " and ".join(f"{part:.4f}" for part in line["parts"])]
             for line in results.limits]
    if lines:
        yield from ["", "### Limits", "", "Reads of a null disk under a limit for ten seconds, from "
                    "the first request on; two works are those of two disks of a group.", ""]
        yield from table(["limit", "work", "work / limit", "of each disk"], lines)


def section(results, chosen, parties):
    machine = results.machine
    lines = ["## Figures", ""]
    if machine:
        lines += [f"Measured on {machine['date']} with `./dev bench`: {machine['processor']}, "
                  f"{machine['cores']} cores, Linux {machine['kernel']}, "
                  f"{machine['peer']}, {machine['fio']}; {machine['filesystem']}; "
                  f"{machine['rounds']} rounds of {machine['seconds']} s. "
                  "Medians over the rounds, with minimum and maximum.", ""]
    lines += tables(results, chosen, parties)
    # The servers' rows are the last.
    lines += nbd.reconnect_lines(results.reconnects)
    lines += rbd.many_lines(results.many_images)
    lines += growth_table(results, growth_rows(results, chosen), parties)
    lines += idle_table(results, parties)
    lines += limit_table(results)
    return "\n".join(lines) + "\n"


def profile_section(profiles):
    """One column for each profiled row, one line for each stage of a request."""
    if not profiles:
        return ""
    columns = list(profiles.values())
    lines = []
    for stage in stages.all_stages():
        cells = [column["stages"].get(stage, 0) for column in columns]
        # Smaller shares are noise.
        if max(cells) >= 5:
            lines.append([stage, *(f"{cell:.0f}" if cell >= 1 else "–" for cell in cells)])
    lines.append(["**all**", *(f"**{sum(column['stages'].values()):.0f}**"
                               for column in columns)])
    return "\n".join(table(["server, ns/op", *(column["title"] for column in columns)], lines))


def growth_rows(results, chosen):
    """The rows of the scaling section: its own and the matching ones of the comparison."""
    def matches(row):
        return row.target == "null" and row.poll and row.rw == "randread" and row.queues == 1

    picked = [row for row in chosen if matches(row) and results.samples(row, contenders.OURS)]
    if not any(row.growth for row in picked):
        return []
    return sorted(picked, key=lambda row: (row.block, row.segments, row.depth))
