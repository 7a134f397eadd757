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


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # Rich would end the process here, with code 1; `main` knows better what it means.
        raise BrokenPipeError


class Screen:
    """Where a person reads. Without a terminal it is plain text; NO_COLOR is honoured."""

    def __init__(self) -> None:
        # Data are shown as they are: brackets in them are no markup.
        self._console = _Console(file=sys.stdout, markup=False, highlight=False)

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

    def chart(self, headers: Sequence[str], rows: Sequence[tuple[Cell, ...]]) -> None:
        """Write a table, with a bar for the number in the last column of each row."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for header in headers[:-1]:
            table.add_column(header, overflow="fold")
        table.add_column(headers[-1], justify="right")
        table.add_column()
        numbers = [row[-1] if isinstance(row[-1], int) else 0 for row in rows]
        whole = max(numbers, default=1)
        for row, number in zip(rows, numbers, strict=True):
            bar = ProgressBar(total=max(whole, 1), completed=number, width=_BAR_WIDTH)
            table.add_row(*(_shown(cell) for cell in row), bar)
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
