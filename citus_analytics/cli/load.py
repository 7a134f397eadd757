"""The command `load`: files into a table, each once, and what came of each."""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from citus_analytics.cli.database import engine_for, url_of
from citus_analytics.cli.failures import Exit, ExitError, printable
from citus_analytics.cli.output import open_rejects, write, write_json
from citus_analytics.cli.progress import loading
from citus_analytics.cli.words import loaded, plural, timed
from citus_analytics.copy import expand
from citus_analytics.errors import ArgumentError
from citus_analytics.github.load import (
    ENDINGS,
    LoadOptions,
    indexes_afterwards,
    indexes_as_they_are,
    load_file,
    write_reject,
)
from citus_analytics.github.models import github_events, github_users

if TYPE_CHECKING:
    from argparse import Namespace

    from sqlalchemy import Engine

    from citus_analytics.copy import LoadResult
    from citus_analytics.github.events import Reject

_TABLES: Final = {"events": github_events, "users": github_users}
_SHOWN: Final = 3


class _Report:
    """What has been loaded so far, and what was rejected."""

    def __init__(self, arguments: Namespace, rejects: BinaryIO | None) -> None:
        self.arguments = arguments
        self.table = _TABLES[arguments.table]
        self.files: list[dict[str, Any]] = []
        self._rejects = rejects
        self._shown = 0

    def reject(self, source: str, reject: Reject) -> None:
        """Write a reject to the file, or tell of the first few."""
        if self._rejects is not None:
            write_reject(self._rejects, source, reject)
            return
        self._shown += 1
        if self._shown <= _SHOWN:
            said = printable(f"{source}, line {reject.line}: {reject.reason}")
            sys.stderr.write(f"rejected: {said}\n")

    def done(self, source: str, result: LoadResult, seconds: float) -> None:
        """Tell of a file."""
        self.files.append({"source": source, **asdict(result), "seconds": seconds})
        if not self.arguments.json:
            write(f"{_name(source)}: {_words(self.table.name, result, seconds)}")

    def finish(self, seconds: float) -> None:
        """Tell of all of them."""
        if self.arguments.json:
            write_json(self._document(seconds))
            return
        rejected = sum(file["rejected"] for file in self.files if not file["already_loaded"])
        if rejected and self._rejects is None:
            write(f"{plural(rejected, 'event')} rejected: --force --rejects FILE keeps them.")
        call = f"load_files(engine, {self.table.name}, {self.arguments.source!r}"
        write(f"Python: {call}{_further_arguments(self.arguments)})")

    def _document(self, seconds: float) -> dict[str, Any]:
        new = [file for file in self.files if not file["already_loaded"]]
        sums = {
            name: sum(file[name] for file in new)
            for name in ("rows", "bytes", "rejected", "duplicates")
        }
        document = {"table": self.table.name, **sums, "seconds": seconds, "files": self.files}
        return {**document, "already_loaded": len(self.files) - len(new)}


def load(arguments: Namespace) -> None:
    """Load files, each in its own transactions.

    Raises:
        ExitError: A file of rejects cannot be written, or the load was interrupted.
        ArgumentError: A source would be written to as the file of rejects.
    """
    sources = [name for source in arguments.source for name in expand(source, ENDINGS)]
    engine = engine_for(url_of(arguments))
    _check_rejects(arguments.rejects, sources)
    with open_rejects(arguments.rejects) as rejects, timed() as whole:
        report = _Report(arguments, rejects)
        try:
            _load_each(report, engine, sources)
        except KeyboardInterrupt as error:
            raise ExitError(_interrupted(report, sources), Exit.INTERRUPTED) from error
    report.finish(whole.seconds)


def _load_each(report: _Report, engine: Engine, sources: list[str]) -> None:
    arguments = report.arguments
    indexes = indexes_afterwards if arguments.indexes_later else indexes_as_they_are
    with indexes(engine, report.table) as dropped:
        for source in sources:
            options = LoadOptions(
                format=arguments.format,
                unique=arguments.unique,
                strict=arguments.strict,
                rejects=partial(report.reject, source),
            )
            with timed() as watch, loading(f"Loading {_name(source)}") as progress:
                result = load_file(
                    engine,
                    report.table,
                    source,
                    options,
                    arguments.force,
                    arguments.jobs,
                    progress,
                )
            report.done(source, result, watch.seconds)
        if dropped:
            sys.stderr.write(f"Building the indexes of {report.table.name}.\n")


def _check_rejects(path: str | None, sources: list[str]) -> None:
    if path is not None and Path(path).resolve() in {Path(source).resolve() for source in sources}:
        raise ArgumentError(
            f"{path} is to be loaded, and --rejects would write to it: name another file."
        )


def _interrupted(report: _Report, sources: list[str]) -> str:
    done = len(report.files)
    # Whatever came between two commits, or after the last one: more may be loaded than is known.
    current = f"while loading {_name(sources[done])}, " if done < len(sources) else ""
    return (
        f"interrupted {current}after {done} of {plural(len(sources), 'file')}. Run the same "
        "command again: it loads what is missing."
    )


def _words(table: str, result: LoadResult, seconds: float) -> str:
    if result.already_loaded:
        return f"loaded before ({result.rows:,} rows); nothing to do. --force loads it again."
    others = [
        f" {plural(number, noun)} {what}."
        for number, noun, what in (
            (result.rejected, "event", "rejected"),
            (result.duplicates, "row", "there already"),
        )
        if number
    ]
    return f"into {table}: {loaded(result, seconds)}{''.join(others)}"


def _further_arguments(arguments: Namespace) -> str:
    given = [
        f", {name}={getattr(arguments, name)!r}"
        for name, usual in (("force", False), ("jobs", 1), ("indexes_later", False))
        if getattr(arguments, name) != usual
    ]
    options = [
        f"{name}={getattr(arguments, name)!r}"
        for name in ("unique", "strict", "format")
        if getattr(arguments, name) not in (False, "auto")
    ]
    return (f", options=LoadOptions({', '.join(options)})" if options else "") + "".join(given)


def _name(source: str) -> str:
    return "standard input" if source == "-" else source
