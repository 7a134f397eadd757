"""What commands print: lines, JSON, tables and progress.

Tables and progress bars come from the package rich, which is imported when it is needed: everything
else works without it.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, is_dataclass
from datetime import datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol, TypeAlias

from citus_analytics.cli.main import ExitError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.progress import Progress

Cell: TypeAlias = str | int | datetime | None

_BAR_WIDTH = 24
# With many columns a bar leaves more room to them.
_NARROW_BAR_WIDTH = 12
_MANY_COLUMNS = 4
# In a file or a pipe, names are not wrapped.
_WIDTH_WITHOUT_TERMINAL = 250


def write(*lines: str) -> None:
    """Write lines of text to standard output."""
    sys.stdout.writelines(f"{line}\n" for line in lines)


def write_json(value: object, *, indent: int | None = 2) -> None:
    """Write a JSON document to standard output, with times in ISO 8601; on one line if asked."""
    write(json.dumps(value, indent=indent, default=_plain, ensure_ascii=False))


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


# Numbers and times as a person reads them


def plural(number: int, noun: str) -> str:
    """Return a number of things: 1 row, 2 rows."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a duration with as many digits as matter: 12.3 s, 45 ms, 6.7 ms."""
    if seconds >= 1:
        return f"{seconds:,.1f} s"
    milliseconds = seconds * 1000
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"


def size(number: float) -> str:
    """Return a number of bytes in the unit that reads best: 8 kB, 12.3 MB, 1.2 GB."""
    if number < 1e6:
        return f"{number / 1e3:,.0f} kB"
    factor, unit = next((f, u) for f, u in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")) if number >= f)
    return f"{number / factor:,.1f} {unit}"


def minute(moment: datetime) -> str:
    """Return a time to the minute, with the name of its zone: 2026-03-01 12:00 UTC."""
    return f"{moment:%Y-%m-%d %H:%M %Z}"


@dataclass(slots=True)
class Stopwatch:
    """How long a block took; 0 until it has ended."""

    seconds: float = 0.0


@contextmanager
def timed() -> Iterator[Stopwatch]:
    """Time a block."""
    watch, start = Stopwatch(), time.perf_counter()
    yield watch
    watch.seconds = round(time.perf_counter() - start, 6)


class Screen:
    """Text and tables for a person, on standard output.

    Without a terminal it is plain text; NO_COLOR is honoured.

    Raises:
        ExitError: The package rich is not installed.
    """

    def __init__(self) -> None:
        try:
            from rich.console import Console
        except ModuleNotFoundError as error:
            raise ExitError(
                "tables need the package rich, which is not installed: install "
                "citus_analytics[cli], or add --json."
            ) from error

        class PipeConsole(Console):
            def on_broken_pipe(self) -> None:
                # Rich would end the process here with code 1; `run` knows better what it means.
                raise BrokenPipeError

        # Data are shown as they are: brackets in them are not markup.
        width = None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL
        self._console = PipeConsole(file=sys.stdout, markup=False, highlight=False, width=width)

    def heading(self, text: str) -> None:
        """Begin a new part."""
        self._console.print()
        self._console.print(text, style="bold")

    def say(self, text: str, *, style: str | None = None) -> None:
        """Write a line, and wrap it where the terminal ends."""
        self._console.print(text, style=style, soft_wrap=not self._console.is_terminal)

    def note(self, text: str) -> None:
        """Write a line that matters less."""
        self.say(text, style="dim")

    def warn(self, text: str) -> None:
        """Write a line that must not be overlooked."""
        self.say(text, style="yellow")

    def table(
        self,
        headers: Sequence[str],
        rows: Sequence[Sequence[Cell]],
        *,
        numeric: Sequence[str] = (),
        bars: Sequence[float] = (),
    ) -> None:
        """Write a table.

        Args:
            headers: The names of the columns.
            rows: The cells of each row.
            numeric: The names of the columns that are flush right.
            bars: A number for each row, shown as a bar behind it; none for no bars.
        """
        from rich import box
        from rich.progress_bar import ProgressBar as Bar
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for header in headers:
            table.add_column(
                header, justify="right" if header in numeric else "left", overflow="fold"
            )
        if bars:
            table.add_column()
        longest = max(bars, default=0) or 1
        width = _BAR_WIDTH if len(headers) < _MANY_COLUMNS else _NARROW_BAR_WIDTH
        drawn = [Bar(total=longest, completed=bar, width=width) for bar in bars]
        for number, row in enumerate(rows):
            table.add_row(*map(_shown, row), *drawn[number : number + 1])
        self._console.print(table)


def _shown(cell: Cell) -> str:
    match cell:
        case None:
            return "unknown"
        case int():
            return f"{cell:,}"
        case datetime():
            return minute(cell)
        case _:
            return printable(cell)


# Progress, on standard error, where somebody sees it


def waiting(what: str) -> AbstractContextManager[object]:
    """Show that something is going on while the block runs."""
    if not _visible():
        return nullcontext()
    from rich.console import Console

    return Console(file=sys.stderr).status(what)


class Amount(Protocol):
    """How much of a source has been loaded: rows, and bytes of those that there are."""

    @property
    def rows(self) -> int:
        """Rows so far."""

    @property
    def bytes(self) -> int:
        """Bytes so far."""

    @property
    def total_bytes(self) -> int | None:
        """The bytes that there are; None if that is unknown."""


class ProgressBar:
    """A bar that shows how far a load or the like has come, for one source after another.

    It appears when it is first shown, and goes with `clear` or at the end of the block.
    """

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def show(self, what: str, amount: Amount, *, total_rows: int | None = None) -> None:
        """Show a bar of bytes, or of rows where only their number is known."""
        elapsed = self.elapsed
        rate = amount.rows / elapsed if elapsed else 0
        read = f"{amount.rows:,} rows, {rate:,.0f}/s, {size(amount.bytes)}"
        if amount.total_bytes is None:
            done, total = amount.rows, total_rows
        else:
            done, total = amount.bytes, amount.total_bytes
            read += f" of {size(amount.total_bytes)}"
        self.advance(what, done, total, words=read)

    @property
    def elapsed(self) -> float:
        """The seconds since the bar appeared."""
        return 0 if self._progress is None else self._progress.tasks[0].elapsed or 0

    def advance(self, what: str, done: float, total: float | None, *, words: str) -> None:
        """Show a bar of anything that can be counted, with words behind it."""
        if self._progress is None:
            if not _visible():
                return
            self._progress = _started(what)
        (task,) = self._progress.tasks
        self._progress.update(task.id, total=total, completed=done, read=words)

    def clear(self) -> None:
        """Remove the bar, so that lines can be written."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _started(what: str) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[read]}"),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        transient=True,
    )
    progress.add_task(what, total=None, read="")
    progress.start()
    return progress


def _visible() -> bool:
    return sys.stderr.isatty() and find_spec("rich") is not None
