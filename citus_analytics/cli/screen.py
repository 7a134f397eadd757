"""Text and tables for a person, by rich, on standard output."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, TypeAlias

from rich import box
from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table

from citus_analytics.cli.failures import printable
from citus_analytics.cli.words import minute

if TYPE_CHECKING:
    from collections.abc import Sequence

Cell: TypeAlias = str | int | datetime | None

_BAR_WIDTH = 24
# Beside many columns a bar leaves them the room.
_NARROW_BAR_WIDTH = 12
_MANY_COLUMNS = 4
# In a file or a pipe nobody wants names in pieces.
_WIDTH_WITHOUT_TERMINAL = 250


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # Rich would end the process here, with code 1; `main` knows better what it means.
        raise BrokenPipeError


class Screen:
    """Where a person reads. Without a terminal it is plain text; NO_COLOR is honoured."""

    def __init__(self) -> None:
        # Data are shown as they are: brackets in them are no markup.
        width = None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL
        self._console = _Console(file=sys.stdout, markup=False, highlight=False, width=width)

    def heading(self, text: str) -> None:
        """Begin a new part."""
        self._console.print()
        self._console.print(text, style="bold")

    def say(self, text: str) -> None:
        """Write a line, and wrap it where the terminal ends."""
        self._print(text)

    def note(self, text: str) -> None:
        """Write a line that matters less."""
        self._print(text, style="dim")

    def warn(self, text: str) -> None:
        """Write a line that must not be overlooked."""
        self._print(text, style="yellow")

    def chart(self, headers: Sequence[str], rows: Sequence[tuple[Cell, ...]]) -> None:
        """Write a table, with a bar for the number in the last column of each row."""
        numbers = [row[-1] if isinstance(row[-1], int) else 0 for row in rows]
        self.table(headers, rows, numeric=headers[-1:], bars=numbers)

    def table(
        self,
        headers: Sequence[str],
        rows: Sequence[tuple[Cell, ...]],
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
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for header in headers:
            table.add_column(
                header, justify="right" if header in numeric else "left", overflow="fold"
            )
        if bars:
            table.add_column()
        whole = max(bars, default=0) or 1
        width = _BAR_WIDTH if len(headers) < _MANY_COLUMNS else _NARROW_BAR_WIDTH
        drawn = [ProgressBar(total=whole, completed=bar, width=width) for bar in bars]
        for number, row in enumerate(rows):
            table.add_row(*(_shown(cell) for cell in row), *drawn[number : number + 1])
        self._console.print(table)

    def _print(self, text: str, style: str | None = None) -> None:
        self._console.print(text, style=style, soft_wrap=not self._console.is_terminal)


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
