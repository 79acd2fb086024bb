"""``hcam history``: plots in a terminal or a PNG, tables, and CSV.

The input is replies of ``hipercam.recorder.rpc.history``, which ``history.archive`` describes.
"""

import csv
import heapq
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from statistics import median
from typing import TextIO

from rich.console import Console
from rich.text import Text

from .. import HcamError
from ..core.fields import Readback
from ..history.archive import (
    HOUR,
    MAX_POINTS,
    MINUTE,
    SECOND,
    Reply,
    Source,
    Span,
    commands,
    lost,
    nothing,
    rows,
    samples,
)
from ..host.installation import install_extra
from ..journal.points import DAY_MS, timestamp_of
from . import times as clock
from .commands import moments, printable
from .troubles import count

PNG_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown")
COLOURS = ("cyan", "yellow", "green", "magenta", "red", "blue")
TIME_STEPS = (
    *(n * SECOND for n in (1, 2, 5, 10, 15, 30)),
    *(n * MINUTE for n in (1, 2, 5, 10, 15, 30)),
    *(n * HOUR for n in (1, 2, 3, 4, 6, 12)),
    *(n * DAY_MS for n in (1, 2, 5, 10, 20, 50, 100, 200, 500)),
)
"""The possible steps (ms) between marks on the time axis."""
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""The bits of a Braille character, by column and row."""
GAP_FACTOR = 4
"""Two values are not joined if the time between them exceeds this many times the median."""
MAX_WORD_LENGTH, MAX_WORDS = 40, 12
"""Limits in a PNG: longer texts are cut, and the oldest of more texts are called OTHERS."""
OTHERS = "(others)"
MARK = "▲"
MAX_DRAWN = 1e200
"""Larger numbers are drawn as this one, because their differences would overflow."""


def show(
    source: Source,
    fields: tuple[str, ...],
    span: Span,
    declared: Mapping[str, Readback],
    *,
    how: str | None,
    points: int | None,
    png: Path | None,
) -> int:
    """Show fields on stdout or in a PNG; return 1 if one of them has no values, otherwise 0.

    ``how`` is ``plot``, ``table``, ``csv`` or ``json``; the default is a plot in a terminal, and a
    table in a pipe. Plots mark the times of commands. Without fields, list all fields. ``points``
    is the number of lines of a table. ``declared``: the declarations of fields, for digits and
    scale.
    """
    if not fields:
        return listed(source.fields(), as_json=how == "json")

    def asked(field: str, pieces: int) -> Reply:
        return source.history(field, *span, pieces) | {"declared": declared.get(field)}

    shown = how == "plot" or sys.stdout.isatty()
    terminal = shutil.get_terminal_size() if shown else None
    if how in WRITERS:
        replies = WRITERS[how](source, fields, span, sys.stdout)
    elif how == "table" or not (png or terminal):
        lines = max(terminal.lines // len(fields) - 4, 5) if terminal else 24
        replies = [asked(field, points or lines) for field in fields]
        if not (points or terminal):  # then show all changes of texts
            replies = [
                asked(reply["field"], MAX_POINTS) if reply.get("earlier") else reply
                for reply in replies
            ]
        for reply in replies:
            if not reply["newest"]:
                print("\n".join(table(reply)))
    else:
        replies = [asked(field, MAX_POINTS) for field in fields]
        devices = sorted({field.partition(".")[0] for field in fields})
        events = [event for device in devices for event in commands(source, device, span)]
        if png:
            write_png(replies, span, png, moments(events))
        elif terminal:
            console = Console(highlight=False, width=terminal.columns)
            for line in charts(replies, span, *terminal, moments(events)):
                console.print(line)
    return note(replies, span)


def listed(known: Mapping[str, Mapping[str, str]], *, as_json: bool) -> int:
    """Print the fields of each device, with their units; return 1 if there are none."""
    if as_json:
        print(json.dumps(known, indent=2, ensure_ascii=False))
    else:
        for device, units in sorted(known.items()):
            names = (f"{name} [{unit}]" if unit else name for name, unit in sorted(units.items()))
            print(printable(f"{device}: {', '.join(names)}"))
    return 0 if known else 1


def note(replies: Sequence[Reply], span: Span) -> int:
    """Print notes on empty and incomplete replies; return 1 if one of them is empty."""
    empty = [reply for reply in replies if reply["newest"]]
    for text in (*(nothing(reply, span) for reply in empty), *lost(replies)):
        print(printable(text), file=sys.stderr)
    return 1 if empty else 0


def formatter(low: float, high: float) -> Callable[[float], str]:
    """Return a function that writes numbers from ``low`` to ``high`` with enough digits."""
    size = max(abs(low), abs(high))
    if low == high:
        return "{:.6g}".format
    if not 1e-2 <= size < 1e7:
        return "{:.2e}".format
    decimals = min(max(math.ceil(2 - math.log10(high - low)), 0), 6)
    if 0 < low < 10**-decimals:
        return "{:.2e}".format
    return f"{{:.{decimals}f}}".format


def writer(reply: Reply) -> Callable[[float], str]:
    """Return a function that writes the values of a reply with the declared or enough digits."""
    declared = reply.get("declared")
    if isinstance(declared, Readback) and declared.type == "number":
        return declared.as_text
    return formatter(*extremes([reply]))


def runs(reply: Reply) -> Iterator[list[int]]:
    """Yield lists of successive indices of a reply, one for each period without a gap."""
    times = reply["time"]
    apart = GAP_FACTOR * median([b - a for a, b in pairwise(times)] or [0])
    run: list[int] = []
    for index, time in enumerate(times):
        if run and time - times[run[-1]] > apart:
            yield run
            run = []
        run.append(index)
    if run:
        yield run


def extremes(replies: list[Reply]) -> tuple[float, float]:
    """Return the lowest and the highest value of replies."""
    return min(min(reply["min"]) for reply in replies), max(max(reply["max"]) for reply in replies)


def drawable(value: float) -> float:
    """Return the nearest number that can be drawn."""
    return min(max(value, -MAX_DRAWN), MAX_DRAWN)


def logarithmic(replies: list[Reply]) -> bool:
    """Return whether the axis is logarithmic: it is declared so, and the values span a decade."""
    low, high = extremes(replies)
    declared = (reply["declared"] for reply in replies if reply.get("declared"))
    return any(field.scale == "log" for field in declared) and 1 / MAX_DRAWN < 10 * low < high


class Axis:
    """The value axis: the lowest value is near dot 0, the highest near the last of ``dots``."""

    def __init__(self, replies: list[Reply], dots: int) -> None:
        self.logarithmic = logarithmic(replies)
        self.dots = dots
        low, high = map(self._scaled, extremes(replies))
        margin = (high - low) / 20 or abs(high) / 100 or 0.5
        self.base, self.length = low - margin, high - low + 2 * margin

    def _scaled(self, value: float) -> float:
        return math.log10(drawable(value)) if self.logarithmic else drawable(value)

    def dot(self, value: float) -> int:
        """Return the dot of a value."""
        part = (self._scaled(value) - self.base) / self.length
        return min(int(part * self.dots), self.dots - 1)

    def marks(self, most: int) -> Iterator[float]:
        """Yield about ``most`` round values."""
        rough = self.length / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(n * power for n in (1, 2, 5, 10) if n * power >= rough)
        if self.logarithmic:
            step = math.ceil(step)
        mark = math.ceil(self.base / step)
        while mark * step <= self.base + self.length:
            yield 10.0 ** (mark * step) if self.logarithmic else mark * step
            mark += 1


class Times:
    """The time axis: a span starts in column 0 and ends in the last of ``columns``."""

    def __init__(self, span: Span, columns: int) -> None:
        self.span, self.columns = span, columns

    def column(self, time: int) -> int:
        """Return the column of a time (ms)."""
        part = (time - self.span.start) / (self.span.end - self.span.start)
        return min(max(int(part * self.columns), 0), self.columns - 1)

    def marks(self, most: int) -> dict[int, str]:
        """Return at most ``most`` round times (ms), each with its label."""
        length = self.span.end - self.span.start
        step = next((step for step in TIME_STEPS if length / step <= most), TIME_STEPS[-1])
        offset = clock.offset_ms(self.span.start)  # a summer time may end in the span
        first = -(-(self.span.start + offset) // step) * step - offset
        return {time: _mark(time, step) for time in range(first, self.span.end + 1, step)}


def _mark(time: int, step: int) -> str:
    text = clock.text(time)
    if step >= DAY_MS or text.endswith("00:00:00"):
        return text[:10]
    return text[11:16] if step >= MINUTE else text[11:19]


class Canvas:
    """Dots in Braille characters, each character in one colour; (0, 0) is the lower left dot."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.cells = [[(0, "")] * width for _ in range(height)]

    def run(self, x: int, low: int, high: int, colour: str) -> None:
        """Set the dots of a column from one row to another, in any order."""
        for y in range(min(low, high), max(low, high) + 1):
            line = self.cells[self.height - 1 - y // 4]
            bits, _ = line[x // 2]
            line[x // 2] = bits | DOTS[x % 2][3 - y % 4], colour

    def line(self, x: int, y: int, to_x: int, to_y: int, colour: str) -> None:
        """Draw a line between two dots; the second one must not be left of the first."""
        steps = 2 * (to_x - x) or 1
        for step in range(steps):
            low, high = (round(y + (to_y - y) * n / steps) for n in (step, step + 1))
            self.run(x + (step + 1) // 2, low, high, colour)

    def lines(self) -> list[Text]:
        """Return the lines of characters, the highest first."""
        return [
            Text.assemble(*((chr(0x2800 + bits) if bits else " ", colour) for bits, colour in line))
            for line in self.cells
        ]


def chart(
    replies: list[Reply], span: Span, width: int, height: int, marked: Sequence[int] = ()
) -> Iterator[Text]:
    """Yield the lines of a plot of values with one unit: ``height`` lines, and two for the time.

    ``marked``: times (ms) to mark on the time axis.
    """
    axis = Axis(replies, 4 * height)
    written = "{:.0e}" if axis.logarithmic else "{:.10g}"
    marks = axis.marks(max(height // 3, 3))
    labels = {axis.dot(mark) // 4: written.format(mark) for mark in marks}
    gutter = max(len(label) for label in labels.values())
    canvas = Canvas(max(width - gutter - 2, 12), height)
    times = Times(span, 2 * canvas.width)
    for reply, colour in zip(replies, COLOURS * len(replies), strict=False):
        _draw(reply, canvas, times, axis, colour)
    for row, line in zip(range(height - 1, -1, -1), canvas.lines(), strict=True):
        label = labels.get(row, "")
        yield Text(f"{label:>{gutter}} {'┤' if label else '│'}", "dim").append_text(line)
    ruler, text = ["─"] * canvas.width, [" "] * (gutter + 2 + canvas.width)
    free = 0
    for time, label in times.marks(canvas.width // 12).items():
        column = times.column(time) // 2
        ruler[column] = "┴"
        start = min(max(gutter + 2 + column - len(label) // 2, free), len(text) - len(label))
        if start >= free:
            text[start : start + len(label)] = label
            free = start + len(label) + 2
    for time in marked:
        ruler[times.column(time) // 2] = MARK
    yield Text(" " * (gutter + 1) + "└" + "".join(ruler), "dim")
    yield Text("".join(text).rstrip(), "dim")


def _draw(reply: Reply, canvas: Canvas, times: Times, axis: Axis, colour: str) -> None:
    for run in runs(reply):
        x, y = -1, 0
        for index in run:
            column = times.column(reply["time"][index])
            if x >= 0:
                canvas.line(x, y, column, axis.dot(reply["mean"][index]), colour)
            low, high = axis.dot(reply["min"][index]), axis.dot(reply["max"][index])
            canvas.run(column, low, high, colour)
            x, y = column, axis.dot(reply["last"][index])


def charts(
    replies: list[Reply], span: Span, width: int, height: int, marked: Sequence[int] = ()
) -> Iterator[Text]:
    """Yield a plot for each unit, with the extremes in words, and a table for each text.

    ``marked``: times (ms) of commands.
    """
    plots = list(by_unit(replies))
    words = {
        reply["field"]: printable(f" {in_words(reply, span)}")
        for _, group in plots
        for reply in group
    }
    texts = [reply for reply in replies if "value" in reply]
    parts = len(plots) + len(texts)
    used = 3 * parts + sum(-(-(len(line) + 2) // width) for line in words.values())
    each = max((height - used - 3) // max(parts, 1), 5)
    for unit, group in plots:
        scale = ", logarithmic" if logarithmic(group) else ""
        title = ", ".join(reply["field"] for reply in group)
        yield Text(printable(f"{title}  {unit}{scale}  {shown(span)}"), "bold")
        yield from chart(group, span, width, min(each, 20), marked)
        for reply, colour in zip(group, COLOURS * len(group), strict=False):
            yield Text("━━", colour).append(words[reply["field"]], "default")
    for reply in texts:
        yield from map(Text, table(cut(reply, each)))
    if marked:
        yield Text(
            f"{MARK} {count(len(marked), 'command')}: hcam history --commands lists them", "dim"
        )


def shown(span: Span) -> str:
    """Return a span as text, with the name of the zone."""
    digits = 16 if span.end - span.start >= HOUR else 19
    start, end = (clock.text(time)[:digits] for time in span)
    return f"{start} to {end} {clock.zone(span.end)}"


def by_unit(replies: list[Reply]) -> Iterator[tuple[str, list[Reply]]]:
    """Yield each unit with the replies in that unit; texts are left out."""
    numbers = [reply for reply in replies if reply.get("min")]
    for unit in dict.fromkeys(reply["unit"] for reply in numbers):
        yield unit, [reply for reply in numbers if reply["unit"] == unit]


def in_words(reply: Reply, span: Span) -> str:
    """Return the last, the lowest and the highest value of a reply, with their times, as text."""
    times, low, high = reply["time"], reply["min"], reply["max"]
    written = writer(reply)
    least, most = low.index(min(low)), high.index(max(high))
    length = span.end - span.start
    year, day, time = 0, 5, 11
    begin = year if length > 300 * DAY_MS else day if length > DAY_MS else time
    digits = slice(begin, 16 if length >= HOUR else 19)
    piece = length / MAX_POINTS / MINUTE  # a time is the start of its piece

    def when(index: int) -> str:
        return f"({clock.text(times[index])[digits]})"

    return (
        f"{reply['field']}: last {written(reply['last'][-1])} {when(-1)}, "
        f"min {written(low[least])} {when(least)}, max {written(high[most])} {when(most)}"
        + (f", each within {math.ceil(piece)} min of that time" if piece > 1 else "")
    )


def cut(reply: Reply, most: int) -> Reply:
    """Return a reply with only its newest changes, at most ``most``."""
    more = max(len(reply["time"]) - most, 0)
    newest = {key: reply[key][more:] for key in ("time", "value")}
    return reply | newest | {"earlier": reply["earlier"] + more}


def table(reply: Reply) -> Iterator[str]:
    """Yield the lines of a table: the values of a number, or the changes of a text."""
    yield from map(printable, _table(reply))


def _table(reply: Reply) -> Iterator[str]:
    unit = f"  {reply['unit']}" if reply["unit"] else ""
    if "value" in reply:
        yield f"{_head(reply):<19}  {reply['field']}"
        if reply["earlier"]:
            yield f"({reply['earlier']} changes before)"
        for time, value in zip(reply["time"], reply["value"], strict=True):
            yield f"{clock.text(time)}  {value}"
        yield f"{clock.text(reply['until'])}  still {reply['value'][-1]}"
        return
    columns = ("min", "mean", "max", "last")
    written = writer(reply)
    cells = [[written(value) for value in reply[column]] for column in columns]
    widths = [max(map(len, [name, *some])) for name, some in zip(columns, cells, strict=True)]
    yield f"{reply['field']}{unit}"
    lines = [columns, *zip(*cells, strict=True)]
    firsts = [_head(reply), *map(clock.text, reply["time"])]
    for first, line, n in zip(firsts, lines, ["n", *reply["n"]], strict=True):
        numbers = "  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True))
        yield f"{first:<19}  {numbers}  {n:>5}"


def _head(reply: Reply) -> str:
    return f"time ({clock.zone(reply['time'][-1])})"


def write_csv(source: Source, fields: tuple[str, ...], span: Span, out: TextIO) -> list[Reply]:
    """Write all values of fields as CSV, one row for each time; return the first pages."""
    pages, streams = zip(*(samples(source, field, span) for field in fields), strict=True)
    writer = csv.writer(out, lineterminator="\n")
    units = (f" [{page['unit']}]" if page["unit"] else "" for page in pages)
    writer.writerow(["time", *(f + unit for f, unit in zip(fields, units, strict=True))])
    for time, row in rows(streams):
        writer.writerow([timestamp_of(time), *(row.get(field, "") for field in fields)])
    return list(pages)


def write_json(source: Source, fields: tuple[str, ...], span: Span, out: TextIO) -> list[Reply]:
    """Write all values of fields in order of time, an object on each line; return first pages."""
    pages, streams = zip(*(samples(source, field, span) for field in fields), strict=True)
    units = {field: page["unit"] for field, page in zip(fields, pages, strict=True)}
    for time, seq, name, value in heapq.merge(*streams, key=itemgetter(0)):
        device, _, field = name.partition(".")
        keep = not isinstance(value, float) or math.isfinite(value)
        found = {"device": device, "field": field, "value": value if keep else None}
        found |= {"unit": units[name], "time": timestamp_of(time), "seq": seq}
        out.write(f"{json.dumps(found, ensure_ascii=False)}\n")
    return list(pages)


WRITERS = {"csv": write_csv, "json": write_json}


def write_png(replies: list[Reply], span: Span, file: Path, marked: Sequence[int] = ()) -> None:
    """Draw a plot for each unit and for each text into a file, and print its name.

    ``marked``: times (ms) of commands, which are dotted lines. Raises HcamError if matplotlib is
    not installed, or if the file cannot be written.
    """
    try:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415  (an optional extra)
    except ImportError:
        raise HcamError(f"a PNG needs matplotlib: {install_extra('plot')}") from None
    plots = list(by_unit(replies))
    texts = [("", [reply]) for reply in replies if "value" in reply]
    if not plots and not texts:
        return
    words = {reply["field"]: words_of(reply) for _, (reply,) in texts}
    heights = [3.0] * len(plots) + [max(len({*each}) / 5, 1) for each in words.values()]
    figure = Figure((10, 1 + sum(heights)), layout="constrained")
    panels = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)
    for panel, (unit, group) in zip(panels[:, 0], [*plots, *texts], strict=True):
        for reply, colour in zip(group, PNG_COLOURS * len(group), strict=False):
            if "value" in reply:
                moments = _moments([*reply["time"], reply["until"]])
                each = words[reply["field"]]
                names = list(dict.fromkeys(each))
                levels = [names.index(word) for word in (*each, each[-1])]
                panel.step(moments, levels, where="post")
                panel.set_yticks(range(len(names)), names, parse_math=False)
                panel.set_ylim(-0.5, len(names) - 0.5)
            else:
                for run in runs(reply):
                    moments = _moments([reply["time"][index] for index in run])
                    low, mean, high = (
                        [drawable(reply[key][index]) for index in run]
                        for key in ("min", "mean", "max")
                    )
                    # Without an edge, a short extreme would be invisible.
                    panel.fill_between(moments, low, high, color=colour, alpha=0.4, lw=0.8)
                    panel.plot(moments, mean, color=colour, lw=1)
            panel.plot([], [], color=colour, label=printable(reply["field"]))
        for moment in _moments(marked):
            panel.axvline(moment, color="black", lw=0.6, ls=":")
        if marked:
            panel.plot([], [], color="black", lw=0.6, ls=":", label="commands")
        if unit and logarithmic(group):
            panel.set_yscale("log")
        panel.set_ylabel(printable(unit), parse_math=False)
        panel.grid(alpha=0.3)
        for text in panel.legend(loc="upper left", fontsize="small").get_texts():
            text.set_parse_math(False)
    panel.set_xlim(*_moments(span))
    zone = clock.moment(span.end).tzinfo
    locator = AutoDateLocator(tz=zone)  # type: ignore[no-untyped-call]
    panel.xaxis.set_major_locator(locator)
    panel.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=zone))  # type: ignore[no-untyped-call]
    panel.set_xlabel(clock.zone(span.end))
    try:
        figure.savefig(file, format="png", dpi=120)
    except OSError as error:
        raise HcamError(f"{file} cannot be written: {error}") from None
    print(f"written: {file}")


def words_of(reply: Reply) -> list[str]:
    """Return the values of a text, shortened for a PNG, at most MAX_WORDS different ones.

    Alarms become their severities and fields.
    """
    each = [_word(reply["field"], value) for value in reply["value"]]
    newest = list(dict.fromkeys(reversed(each)))
    if len(newest) <= MAX_WORDS:
        return each
    kept = set(newest[: MAX_WORDS - 1])
    return [word if word in kept else OTHERS for word in each]


def _word(field: str, value: str) -> str:
    if field.endswith(".alarms"):
        with suppress(ValueError, TypeError, KeyError):  # a long list of alarms is stored in part
            alarms = [f"{alarm['severity']} {alarm['field']}" for alarm in json.loads(value)]
            value = ", ".join(alarms) or "none"
    text = printable(value)
    return text if len(text) <= MAX_WORD_LENGTH else f"{text[: MAX_WORD_LENGTH - 1]}…"


def _moments(times: Iterable[int]) -> list[datetime]:
    return list(map(clock.moment, times))
