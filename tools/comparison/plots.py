# SPDX-License-Identifier: MIT
"""SVG plots: dots with whiskers on a logarithmic axis, and scaling curves."""

import math
from xml.sax.saxutils import escape

from . import contenders, markdown

COLOURS = {"guestio-blk": "#0072b2", "qsd": "#d55e00", "qsd-aio": "#cc79a7", "raw": "#333333",
           "raw-single": "#999999", "always": "#56b4e9", "floor": "#8c6d31", "floor-look": "#c7a76c"}
SPARE_COLOURS = ("#009e73", "#e69f00", "#f0e442")
STYLE = ("text{font:12px system-ui,sans-serif;fill:#222}.s{font-size:11px;fill:#555}"
         ".t{font-weight:600}.g{stroke:#ddd}.b{fill:#f6f6f6}")


class Canvas:
    """Collects shapes. Coordinates are pixels from the upper left corner."""

    def __init__(self, width, height):
        self._size = (width, height)
        self._parts = []

    def text(self, x, y, words, anchor="start", kind=""):
        self._parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" '
                           f'class="{kind}">{escape(words)}</text>')

    def line(self, x1, y1, x2, y2, colour=None, width=1.0):
        paint = f'stroke="{colour}"' if colour else 'class="g"'
        self._parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
                           f'{paint} stroke-width="{width}"/>')

    def dot(self, x, y, colour):
        self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')

    def band(self, x, y, width, height):
        self._parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
                           f'height="{height:.1f}" class="b"/>')

    def path(self, points, colour):
        points_text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(f'<polyline points="{points_text}" fill="none" stroke="{colour}" '
                           'stroke-width="1.5"/>')

    def to_svg(self):
        width, height = self._size
        return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
                f'width="{width}" height="{height}">\n<style>{STYLE}</style>\n'
                f'<rect width="{width}" height="{height}" fill="#fff"/>\n'
                + "\n".join(self._parts) + "\n</svg>\n")


class LogScale:
    """Maps positive values logarithmically to [start, end]."""

    def __init__(self, values, start, end):
        self._low = math.log10(min(values)) - 0.05
        self._high = math.log10(max(values)) + 0.05
        self._start, self._end = start, end

    def at(self, value):
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)

    def ticks(self):
        """Round values within the scale, fewer for more decades."""
        decades = self._high - self._low
        steps = (1, 1.5, 2, 3, 4, 5, 7) if decades < 0.7 else (1, 2, 5) if decades < 2 else (1,)
        first, last = math.floor(self._low), math.ceil(self._high)
        ticks = [step * 10.0 ** power for power in range(first, last + 1) for step in steps]
        return [tick for tick in ticks if self._low <= math.log10(tick) <= self._high]


def colours_of(parties):
    spare = iter(SPARE_COLOURS * len(parties))
    return {party.key: COLOURS.get(party.key) or next(spare) for party in parties}


def legend(canvas, parties, colours, x, y):
    for party in parties:
        canvas.dot(x, y - 4, colours[party.key])
        canvas.text(x + 8, y, party.label)
        x += 24 + 6.6 * len(party.label)


def tick_text(value):
    return f"{value:,.0f}".replace(",", " ") if value >= 10 else f"{value:g}"


def dot_plot(results, chosen, parties, title):
    """One line for each row, one dot for each contender; None without samples."""
    present = [party for party in parties
               if any(results.samples(row, party.key) for row in chosen)]
    chosen = [row for row in chosen if any(results.samples(row, party.key) for party in present)]
    if not chosen:
        return None
    colours = colours_of(present)
    label, panel, gap, top, lane = 330, 300, 30, 64, 14
    row_height = [lane * len(present) + 8] * len(chosen)
    bottom = top + sum(row_height)
    canvas = Canvas(label + 2 * panel + gap + 20, bottom + 30)
    canvas.text(10, 20, title, kind="t")
    legend(canvas, present, colours, 16, 40)
    y = top
    for index, height in enumerate(row_height):
        if index % 2 == 0:
            canvas.band(0, y, label + 2 * panel + gap + 20, height)
        canvas.text(label - 10, y + height / 2 + 4, markdown.describe(chosen[index]), "end")
        y += height
    for index, (name, scale, words) in enumerate((("cpu_ns", 1e-3, "server CPU time, µs/op"),
                                                  ("iops", 1e-3, "kIOPS"))):
        left = label + index * (panel + gap)
        draw_dots(canvas, results, chosen, present, colours, (name, scale),
                  (left, left + panel, top, bottom), lane)
        canvas.text(left + panel / 2, top - 6, words, "middle", "s")
    return canvas.to_svg()


def draw_dots(canvas, results, chosen, parties, colours, quantity, frame, lane):
    name, factor = quantity
    left, right, top, bottom = frame
    figures = {(row, party.key): results.figure(row, party.key, name)
               for row in chosen for party in parties}
    values = [value * factor for figure in figures.values() if figure
              for value in (figure.minimum, figure.maximum)]
    scale = LogScale(values, left, right)
    for tick in scale.ticks():
        canvas.line(scale.at(tick), top, scale.at(tick), bottom)
        canvas.text(scale.at(tick), bottom + 16, tick_text(tick), "middle", "s")
    y = top
    for row in chosen:
        for index, party in enumerate(parties):
            figure = figures[row, party.key]
            if figure:
                at = y + 4 + lane * (index + 0.5)
                colour = colours[party.key]
                canvas.line(scale.at(figure.minimum * factor), at,
                            scale.at(figure.maximum * factor), at, colour, 1.5)
                canvas.dot(scale.at(figure.median * factor), at, colour)
        y += lane * len(parties) + 8


def growth_plot(results, chosen, parties):
    """Server CPU time over depth and over segments, side by side; None without samples."""
    series = [("iodepth (4 KiB)", [row for row in chosen if row.block == 4096],
               lambda row: row.depth),
              ("descriptors per request (64 KiB)", [row for row in chosen if row.block > 4096],
               lambda row: row.segments)]
    served = [party for party in parties if party.serves
              and any(results.samples(row, party.key) for row in chosen)]
    if not chosen or not served:
        return None
    colours = colours_of(served)
    canvas = Canvas(760, 330)
    canvas.text(10, 20, "Server CPU time on the null disk, client polling, µs/op", kind="t")
    legend(canvas, served, colours, 16, 40)
    for index, (words, points, along) in enumerate(series):
        if points:
            left = 60 + index * 370
            draw_lines(canvas, results, points, served, colours, along, (left, left + 300, 60, 270))
            canvas.text(left + 150, 310, words, "middle", "s")
    return canvas.to_svg()


def draw_lines(canvas, results, chosen, parties, colours, along, frame):
    left, right, top, bottom = frame
    figures = {(row, party.key): results.figure(row, party.key, "cpu_ns")
               for row in chosen for party in parties}
    values = [value / 1000 for figure in figures.values() if figure
              for value in (figure.minimum, figure.maximum)]
    scale = LogScale(values, bottom, top)
    across = LogScale([along(row) for row in chosen] or [1], left, right)
    for tick in scale.ticks():
        canvas.line(left, scale.at(tick), right, scale.at(tick))
        canvas.text(left - 6, scale.at(tick) + 4, tick_text(tick), "end", "s")
    for row in chosen:
        canvas.text(across.at(along(row)), bottom + 18, str(along(row)), "middle", "s")
    for party in parties:
        points = []
        for row in sorted(chosen, key=along):
            figure = figures[row, party.key]
            if figure:
                x, y = across.at(along(row)), scale.at(figure.median / 1000)
                canvas.line(x, scale.at(figure.minimum / 1000), x,
                            scale.at(figure.maximum / 1000), colours[party.key], 1.5)
                canvas.dot(x, y, colours[party.key])
                points.append((x, y))
        canvas.path(points, colours[party.key])


def all_plots(results, chosen, parties):
    """{file name: SVG} of all plots with samples."""
    plots = {}
    for target, title in markdown.TITLES.items():
        here = [row for row in chosen if row.target == target and not row.growth]
        plots[f"bench-{target}.svg"] = dot_plot(results, here, parties, title)
    growth = markdown.growth_rows(results, chosen)
    plots["bench-growth.svg"] = growth_plot(results, growth, parties)
    return {name: svg for name, svg in plots.items() if svg}
