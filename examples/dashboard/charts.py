"""The geometry of the charts: paths and ticks, which templates put into SVG.

Everything is in the units of the data: a chart's plot is an `<svg>` with a `viewBox` as wide as it
has buckets and as high as its greatest tick, upside down and stretched to its place. So a chart is
as wide as the window is, and no script has to measure it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from zoneinfo import ZoneInfo

    from citus_analytics import Every

# How many labels a time axis has room for on a phone.
_LABELS: Final = 6


@dataclass(frozen=True, slots=True)
class Series:
    """What belongs together in a chart: one colour, one name, a value for each bucket.

    Attributes:
        key: What the values are of, such as a type of events; None for all others.
        name: Its name for people.
        color: The number of its colour.
        values: One for each bucket.
    """

    key: str | None
    name: str
    color: int
    values: tuple[float, ...]

    @property
    def total(self) -> float:
        """The sum of its values."""
        return sum(self.values)


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart over time, ready to be drawn.

    Attributes:
        width: How many buckets there are.
        height: The greatest tick.
        paths: A colour and a path, in the order of drawing: each covers a part of the one before.
        line: The outline of an area, where the chart is one.
        partial: The buckets that are drawn paler, because they are cut or not over yet.
        ticks: The labels of the value axis, from the top down.
        labels: Where a label of the time axis stands, in per cent, and what it says.
        edges: Where the buckets begin, and the last one ends.
    """

    width: int
    height: float
    paths: tuple[tuple[int, str], ...]
    line: str
    partial: frozenset[int]
    ticks: tuple[str, ...]
    labels: tuple[tuple[float, str], ...]
    edges: tuple[datetime, ...]


def bars(
    series: Sequence[Series],
    edges: Sequence[datetime],
    *,
    every: Every,
    zone: ZoneInfo,
    partial: frozenset[int],
) -> Chart:
    """Stack series as bars, the first one at the bottom."""
    count = max(len(edges) - 1, 0)
    top, ticks = scale(
        max((sum(each.values[i] for each in series) for i in range(count)), default=0)
    )
    # With many bars a gap would be narrower than a pixel, and look like a pattern.
    wide = "h1" if count > 120 else "h.84"
    gap = "" if count > 120 else "h.16"
    height = [0.0] * count
    paths = []
    for each in series:
        drawn = "M0 0" if not gap else "M.08 0"
        for i, value in enumerate(each.values):
            height[i] += value
            drawn += f"V{height[i]:g}{wide}" + (f"V0{gap}" if gap else "")
        paths.append((each.color, f"{drawn}V0z"))
    paths.reverse()
    return Chart(
        count, top, tuple(paths), "", partial, ticks, labels(edges, every, zone), tuple(edges)
    )


def area(
    series: Series,
    edges: Sequence[datetime],
    *,
    every: Every,
    zone: ZoneInfo,
    partial: frozenset[int],
) -> Chart:
    """Draw a series as a line with the area under it, from the middle of bucket to bucket."""
    count = max(len(edges) - 1, 0)
    top, ticks = scale(max(series.values, default=0))
    line = "".join(
        f"{'L' if i else 'M'}{i + 0.5:g} {value:g}" for i, value in enumerate(series.values)
    )
    if count == 1:
        line = f"M0 {series.values[0]:g}H1"
    paths = ((series.color, f"{line}V0H{0.5 if count > 1 else 0}z"),)
    return Chart(count, top, paths, line, partial, ticks, labels(edges, every, zone), tuple(edges))


def scale(greatest: float) -> tuple[float, tuple[str, ...]]:
    """Return the greatest tick of an axis, and the labels of its ticks from the top down."""
    if greatest <= 0:
        return 1.0, ("", "0")
    step = 1.0
    while step * 5 < greatest:
        # 1, 2, 5, 10, 20, ...
        step *= 2.5 if f"{step:e}".startswith("2") else 2
    count = -(-greatest // step)
    return step * count, tuple(short(step * i) for i in range(int(count), -1, -1))


def short(number: float) -> str:
    """Write a number as people say it: 950, 1.2k, 34k, 5.6M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            shown = number / size
            return (
                f"{shown:.0f}{unit}"
                if shown >= 100
                else f"{shown:.1f}".rstrip("0").rstrip(".") + unit
            )
    return f"{number:,.0f}" if number == int(number) else f"{number:.1f}"


def labels(
    edges: Sequence[datetime], every: Every, zone: ZoneInfo
) -> tuple[tuple[float, str], ...]:
    """Choose the buckets that the time axis names, at full hours or days where there are some."""
    shown = [edge.astimezone(zone) for edge in edges[:-1]]
    if not shown:
        return ()
    count = len(shown)
    days = every.length >= 86_400
    span = count * every.length
    found: list[int] = []
    for step in (60, 300, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400):
        found = [
            i
            for i, at in enumerate(shown)
            if (at.hour * 3600 + at.minute * 60 + at.second) % step == 0
        ]
        if len(found) <= _LABELS:
            break
    else:
        found = found[:: -(-len(found) // _LABELS)]
    texts = []
    for i in found or [0]:
        at = shown[i]
        if every.length > 20 * 86_400:
            said = f"{at:%b %Y}"
        elif days or (at.hour == at.minute == 0):
            said = f"{at.day} {at:%b}"
        elif span > 86_400 * 3:
            said = f"{at.day} {at:%b, %H:%M}"
        else:
            said = f"{at:%H:%M}"
        texts.append((100 * (i + (0.5 if days else 0)) / count, said))
    # One that begins at the very edge would be cut.
    return tuple((place, said) for place, said in texts if 2 <= place <= 97 or count < 3)
