"""Progress on standard error: bars and spinners by rich, or nothing where nobody would see them."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeAlias

from citus_analytics.cli.words import size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Task

    from citus_analytics import copy

    ProgressCallback: TypeAlias = Callable[[copy.Progress], None]


def loading(what: str, rows: int | None = None) -> AbstractContextManager[ProgressCallback]:
    """Show how far a load has come, while the block runs.

    Args:
        what: What is loaded.
        rows: How many rows there will be, for a source that does not know its bytes.
    """
    return _bar(what, rows) if _visible() else nullcontext(lambda _: None)


def waiting(what: str) -> AbstractContextManager[object]:
    """Show that something goes on, while the block runs."""
    if not _visible():
        return nullcontext()
    from rich.console import Console

    return Console(file=sys.stderr).status(what)


def _visible() -> bool:
    return sys.stderr.isatty() and find_spec("rich") is not None


@contextmanager
def _bar(what: str, rows: int | None) -> Iterator[ProgressCallback]:
    """Show a bar of bytes, or of rows where only their number is known."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        transient=True,
    ) as bars:
        number = bars.add_task(what, total=rows, amount="")
        task = bars.tasks[0]

        def show(so_far: copy.Progress) -> None:
            by_bytes = so_far.total_bytes is not None
            bars.update(
                number,
                total=so_far.total_bytes if by_bytes else rows,
                completed=so_far.bytes if by_bytes else so_far.rows,
                amount=_amount(so_far, task),
            )

        yield show


def _amount(so_far: copy.Progress, task: Task) -> str:
    of = "" if so_far.total_bytes is None else f" of {size(so_far.total_bytes)}"
    rate = so_far.rows / task.elapsed if task.elapsed else 0
    return f"{so_far.rows:,} rows, {rate:,.0f}/s, {size(so_far.bytes)}{of}"
