"""The commands of the core: rollups, status and lint."""

from __future__ import annotations

import importlib
import os
import sys
import time
from argparse import ArgumentTypeError
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

from alembic.command import upgrade
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import RevisionStep
from alembic.script import ScriptDirectory
from alembic.util import CommandError, coerce_resource_to_filename
from sqlalchemy import MetaData, create_engine, func, select, text

from citus_analytics.catalog import cluster_status
from citus_analytics.cli.main import (
    EXPECTED,
    Exit,
    ExitError,
    Interrupts,
    add_command,
    add_database_url,
    add_json,
    engine_of,
    explain,
    interval,
    moment,
    positive,
    printable,
    url_of,
    was_interrupted,
)
from citus_analytics.cli.output import (
    ProgressBar,
    Screen,
    duration,
    plural,
    size,
    timed,
    waiting,
    write,
    write_json,
)
from citus_analytics.cluster import explain_shape
from citus_analytics.errors import ArgumentError, RollupError
from citus_analytics.grafana import PASSWORD_VARIABLE
from citus_analytics.grafana import write as write_grafana
from citus_analytics.lint import RULES, lint_metadata, lint_migrations
from citus_analytics.rollups.declare import rollups_of
from citus_analytics.rollups.run import (
    AuditedWindow,
    RollupBatch,
    audit,
    backfill,
    expire,
    record_failure,
    repair,
    rollup_status,
    run_batch,
    verify,
)
from citus_analytics.sql import qualify

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from sqlalchemy import Connection, Engine

    from citus_analytics.catalog import ClusterStatus, Node
    from citus_analytics.cli.main import Commands
    from citus_analytics.cli.output import Cell
    from citus_analytics.lint import Finding
    from citus_analytics.rollups.declare import Rollup
    from citus_analytics.rollups.run import Difference, RollupStatus


def metadata_of(target: str) -> MetaData:
    """Return the metadata that `package.module:attribute` is, or that its declarative base has.

    Raises:
        ExitError: The module cannot be imported, or the attribute is something else.
    """
    module, colon, attribute = target.partition(":")
    if not (module and colon and attribute):
        raise ExitError(
            f"{target!r} names no attribute of a module: write it as myapp.models:Base.", Exit.USAGE
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        value: object = importlib.import_module(module)
    except Exception as error:  # Whatever a module of somebody else's does wrong.
        raise ExitError(
            f"{module!r} cannot be imported from {here}: {type(error).__name__}: {error}",
            Exit.USAGE,
        ) from error
    for name in attribute.split("."):
        value = getattr(value, name, None)
    metadata = getattr(value, "metadata", value)
    if not isinstance(metadata, MetaData):
        found = "does not exist" if value is None else f"is of type {type(value).__name__}"
        raise ExitError(
            f"{target} {found}: name a MetaData of SQLAlchemy's or a declarative base, such as "
            "myapp.models:Base.",
            Exit.USAGE,
        )
    return metadata


# rollups


def add_rollups(commands: Commands, *, metadata: str | None = None) -> None:
    """Add `rollups`.

    Args:
        commands: Where it is added.
        metadata: Whose rollups they are unless `--metadata` is given; None if that is required.
    """
    parser = add_command(
        commands,
        "rollups",
        rollups_status,
        "run, verify, repair, backfill and expire rollups",
        "Keep rollups, and see that they add up. All rollups of a source share its log: run, "
        "backfill and expire are about sources, and a rollup that is named stands for its own.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", title="actions")

    def add(
        name: str, function: Callable[[Namespace], object], summary: str, description: str
    ) -> ArgumentParser:
        action = add_command(actions, name, function, summary, description)
        action.add_argument("name", nargs="*", metavar="NAME", help="a rollup (default: all)")
        action.add_argument(
            "--metadata",
            default=metadata,
            required=metadata is None,
            metavar="MODULE:NAME",
            help="the metadata, or the declarative base, that declares the rollups"
            + (f" (default: {metadata})" if metadata else ""),
        )
        add_database_url(action)
        return action

    def add_window(action: ArgumentParser, default: str, least: str = "") -> None:
        action.add_argument(
            "--window",
            type=interval,
            default=interval(default),
            metavar="TIME",
            help=f"how much one transaction covers{least} (default: {default})",
        )

    run = add(
        "run",
        rollups_run,
        "add up what has changed",
        "Add up what has changed since the last run, however old it is: each source in a "
        "transaction of its own. With --every it goes on until a signal comes, prints a line for "
        "each run, leaves a source alone while another run of it is in progress, and after an "
        "error tries again, later and later. Ctrl-C and SIGTERM let a run finish, and end the "
        "service with exit code 0; a second one rolls the run back.",
    )
    run.add_argument(
        "--every", type=interval, metavar="TIME", help="run again and again, such as 10s or 1m"
    )
    run.add_argument(
        "--no-wait",
        action="store_true",
        help="leave a source alone, and end with exit code 3, if another run is in progress",
    )
    run.add_argument(
        "--metrics",
        type=positive,
        metavar="PORT",
        help="with --every: metrics for Prometheus at http://127.0.0.1:PORT/metrics",
    )
    run.add_argument(
        "--json",
        action="store_true",
        help="print one JSON document; with --every one for each run, on a line of its own",
    )
    add_json(
        add(
            "status",
            rollups_status,
            "show how far rollups are",
            "Show for each table of a rollup when it was run, what is pending, whether it is "
            "complete, from when on its source is, and the error of the last run.",
        )
    )
    for name, function, summary, description in (
        (
            "verify",
            rollups_verify,
            "compare rollups with their sources",
            "Compare rollups with the raw rows, exactly and group by group, while others write. "
            "Changes nothing, and ends with exit code 1 if something differs.",
        ),
        (
            "repair",
            rollups_repair,
            "add what is missing in rollups",
            "Add to rollups what they differ by from the raw rows, while others write.",
        ),
    ):
        action = add(name, function, summary, description)
        for bound, meaning in (("since", "from this time on"), ("until", "before this time")):
            action.add_argument(
                f"--{bound}",
                type=moment,
                metavar="TIME",
                help=f"only buckets {meaning}, such as 2026-03-01T12:00Z",
            )
        add_json(action)
    action = add(
        "audit",
        rollups_audit,
        "prove rollups right, a part at a time",
        "Compare rollups with the raw rows for a while: window by window, from the newest rows "
        "back, each in a transaction of its own that keeps no writer out. The next call goes on "
        "from there. `status` shows from when to when each table is proved. Ends with exit code 1 "
        "if something differs.",
    )
    action.add_argument(
        "--budget",
        type=interval,
        default=timedelta(seconds=10),
        metavar="TIME",
        help="start no further window after this time, for each rollup (default: 10s)",
    )
    add_window(action, "1d")
    add_json(action)
    action = add(
        "backfill",
        rollups_backfill,
        "add up what was there before the rollups",
        "Add up the rows that were there when rollups were created: window by window, newest "
        "first, each in a transaction of its own that keeps no writer out. It can be interrupted "
        "at any time, and goes on from there.",
    )
    add_window(action, "1d", ", at least a day and a bucket")
    add_json(action)
    action = add(
        "expire",
        rollups_expire,
        "delete old raw rows and keep their aggregates",
        "Delete raw rows from before a time, in many transactions, and keep what rollups hold of "
        "them. Rows that come for that time later are added, or left out, as the rollups are "
        "declared; verify and repair look no further back. Where there are rollups of several "
        "sources, one has to be named.",
    )
    action.add_argument(
        "--before",
        type=moment,
        required=True,
        metavar="TIME",
        help="delete what happened before this time, such as 2026-01-01T00:00Z",
    )
    add_window(action, "1h")
    add_json(action)


def _rollups_of(arguments: Namespace) -> list[Rollup]:
    declared = {each.name: each for each in rollups_of(metadata_of(arguments.metadata))}
    unknown = [name for name in arguments.name if name not in declared]
    if unknown or not declared:
        raise ArgumentError(
            f"{arguments.metadata} declares no rollup{f' {unknown[0]!r}' if unknown else ''}; "
            f"its rollups are: {', '.join(declared) or 'none'}."
        )
    return [declared[name] for name in arguments.name or declared]


def _rollups_there(arguments: Namespace, engine: Engine) -> tuple[list[Rollup], list[str]]:
    """Return the rollups that the database has, and what is to be said of those that it lacks.

    Raises:
        RollupError: It has none of them.
    """
    there: list[Rollup] = []
    missing, first = list[str](), None
    for rollup in _rollups_of(arguments):
        try:
            with engine.connect() as connection:
                rollup_status(connection, rollup)
        except RollupError as error:
            missing.append(rollup.name)
            first = first or error
        else:
            there.append(rollup)
    if first is None:
        return there, []
    if not there:
        raise first
    several = len(missing) > 1
    return there, [
        f"{arguments.metadata} declares {', '.join(missing)}, which the database does not have. If "
        f"your application has removed {'them' if several else 'it'}, name its own metadata, as in "
        f"--metadata myapp.models:Base; if {'they are' if several else 'it is'} new, migrate the "
        "database."
    ]


def _sources_of(arguments: Namespace) -> dict[str, Rollup]:
    """Return the sources of the rollups, each with one of them, which stands for all."""
    return {each.source.key: each for each in _rollups_of(arguments)}


@contextmanager
def _rollup_engine(arguments: Namespace) -> Iterator[Engine]:
    """Lend an engine with one connection, which keeps the plans of the functions."""
    engine = create_engine(
        url_of(arguments),
        # What is computed from raw rows needs those of now, whatever the database's default is.
        isolation_level="READ COMMITTED",
        pool_size=1,
        max_overflow=0,
        pool_pre_ping=True,
    )
    try:
        yield engine
    finally:
        engine.dispose()


def rollups_run(arguments: Namespace) -> None:
    """Bring rollups up to date, once or again and again.

    Raises:
        ExitError: Another run is in progress and should not be waited for, the database does not
            have all rollups or refuses to run them, or the metadata cannot be imported.
        ArgumentError: There is no such rollup, or --metrics without --every.
    """
    sources = _sources_of(arguments)
    if arguments.every is not None:
        _serve(arguments, sources)
        return
    if arguments.metrics:
        raise ArgumentError("--metrics is for a service: add --every.")
    runs, busy, refused = list[dict[str, Any]](), list[str](), list[str]()
    with _rollup_engine(arguments) as engine:
        for source, rollup in sources.items():
            changes, page = 0, 0
            try:
                with timed() as watch, waiting(f"Rolling up {source}"):
                    while run := _run_batch(engine, rollup, page, wait=not arguments.no_wait):
                        changes += run.changes
                        if run.next_page is None:
                            break
                        page = run.next_page
            except RollupError as error:
                # The others can be run.
                refused.append(f"{source}: {error}")
                continue
            if run is None:
                busy.append(source)
                continue
            runs.append({"source": source, "changes": changes, "seconds": watch.seconds})
            if not arguments.json:
                write(f"{source}: {rolled_up(changes, watch.seconds)}")
    code = Exit.FAILED if refused else Exit.BUSY
    if busy:
        refused.append(
            f"another run of {', '.join(busy)} is in progress; this one changed nothing there."
        )
    if arguments.json and (runs or not refused):
        sums = {name: sum(run[name] for run in runs) for name in ("changes", "seconds")}
        write_json({**sums, "sources": runs})
    if refused:
        raise ExitError(" ".join(refused), code)
    if arguments.json:
        return
    tables = (each.source for each in sources.values())
    calls = (f"SELECT {qualify(f'{table.name}_run', table.schema)}();" for table in tables)
    write(
        f"Python: run_rollup(session, rollup{', wait=False' if arguments.no_wait else ''}); "
        f"any client: {' '.join(calls)}"
    )


def _run_batch(engine: Engine, rollup: Rollup, page: int, *, wait: bool) -> RollupBatch | None:
    """Run a batch in a transaction of its own, and note in the database if that fails."""
    try:
        with engine.begin() as connection:
            return run_batch(connection, rollup, page, wait=wait)
    except EXPECTED as error:
        if not was_interrupted(error):
            # The database may be what has failed, or have no such rollup.
            with suppress(*EXPECTED), engine.begin() as connection:
                record_failure(connection, rollup, explain(error))
        raise


def rolled_up(changes: int, seconds: float, *, more: bool = False) -> str:
    """Return what a run of a rollup did, and whether there is more to do."""
    if not changes and not more:
        return f"nothing has changed since the last run ({duration(seconds)})."
    rest = " There are more." if more else ""
    return f"{plural(changes, 'change')} added up, in {duration(seconds)}.{rest}"


# After errors a service waits twice as long each time, up to so many seconds.
_LONGEST_PAUSE: Final = 300.0


def _serve(arguments: Namespace, sources: Mapping[str, Rollup]) -> None:
    """Run rollups again and again until a signal comes."""
    every = arguments.every.total_seconds()
    interrupts, metrics = Interrupts(), Metrics(sources)
    due = dict.fromkeys(sources, time.monotonic())
    pages = dict.fromkeys(sources, 0)
    failures = Counter[str]()
    with ExitStack() as stack:
        stack.enter_context(interrupts.handled())
        engine = stack.enter_context(_rollup_engine(arguments))
        if arguments.metrics:
            stack.enter_context(metrics.served(arguments.metrics))
        try:
            while True:
                source = min(due, key=lambda each: due[each])
                if interrupts.wait(max(0.0, due[source] - time.monotonic())):
                    break
                start, at = time.monotonic(), datetime.now(UTC)
                document: dict[str, Any] = {"source": source, "at": at}
                error = run = None
                try:
                    with interrupts.held():
                        run = _run_batch(engine, sources[source], pages[source], wait=False)
                except EXPECTED as failure:
                    if was_interrupted(failure):
                        raise
                    error = explain(failure)
                    document |= {"outcome": "failed", "error": error}
                    failures[source] += 1
                else:
                    failures[source] = 0
                    pages[source] = (run and run.next_page) or 0
                    outcome = "busy" if run is None else "added up"
                    document |= {"outcome": outcome, "changes": run and run.changes}
                seconds = time.monotonic() - start
                document["seconds"] = round(seconds, 6)
                metrics.add(source, run, at=at, seconds=seconds, failed=error is not None)
                # What is left of a long log comes at once.
                pause = 0.0 if pages[source] and not failures[source] else every
                if failures[source]:
                    pause = max(
                        every, min(every * 2.0 ** min(failures[source], 30), _LONGEST_PAUSE)
                    )
                due[source] = start + pause
                if arguments.json:
                    write_json(document, indent=None)
                elif error is not None:
                    words = f"failed: {error} Next run in {duration(pause)}."
                    write(printable(f"{at:%F %T %Z} {source}: {words}"))
                elif run is None:
                    write(f"{at:%F %T %Z} {source}: another run is in progress.")
                else:
                    more = run.next_page is not None
                    write(f"{at:%F %T %Z} {source}: {rolled_up(run.changes, seconds, more=more)}")
                # Whoever reads along, through a pipe or in a file, sees it now.
                sys.stdout.flush()
        except KeyboardInterrupt:
            if interrupts.forced:
                raise


class Metrics:
    """What a service has done, counted for Prometheus.

    The format is Prometheus' text exposition format, version 0.0.4.
    """

    _HELP: Final = {
        "runs_total": ("counter", "Runs that have ended well."),
        "changes_total": ("counter", "Changed rows of the source that were added up."),
        "busy_total": ("counter", "Runs left out, because another one was in progress."),
        "failures_total": ("counter", "Runs that have failed."),
        "last_run_timestamp_seconds": ("gauge", "When the last run started that ended well."),
        "last_run_duration_seconds": ("gauge", "How long it took."),
    }

    def __init__(self, sources: Iterable[str]) -> None:
        self._values = {source: dict.fromkeys(self._HELP, 0.0) for source in sources}

    def add(
        self, source: str, run: RollupBatch | None, *, at: datetime, seconds: float, failed: bool
    ) -> None:
        """Count a run of a source, or that there was none because another one was in progress."""
        values = self._values[source].copy()
        if failed:
            values["failures_total"] += 1
        elif run is None:
            values["busy_total"] += 1
        else:
            values["runs_total"] += 1
            values["changes_total"] += run.changes
            values |= {
                "last_run_timestamp_seconds": at.timestamp(),
                "last_run_duration_seconds": seconds,
            }
        # In one step, because the server reads it in another thread.
        self._values[source] = values

    def text(self) -> str:
        """Return the metrics as Prometheus reads them."""
        lines = []
        for name, (kind, words) in self._HELP.items():
            full = f"citus_analytics_rollup_{name}"
            lines += [f"# HELP {full} {words}", f"# TYPE {full} {kind}"]
            for source, values in self._values.items():
                label = source.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
                lines.append(f'{full}{{source="{label}"}} {values[name]!r}')
        return "\n".join(lines) + "\n"

    @contextmanager
    def served(self, port: int) -> Iterator[None]:
        """Serve them on the loopback interface while the block runs."""
        text = self.text

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path != "/metrics":
                    self.send_error(404)
                    return
                body = text().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Log no request: a line is printed for each run."""

        with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
            Thread(target=server.serve_forever, daemon=True).start()
            try:
                yield
            finally:
                server.shutdown()


def rollups_status(arguments: Namespace) -> None:
    """Show how far rollups are.

    Raises:
        ExitError: The database does not have all of them.
    """
    screen = None if arguments.json else Screen()
    with _rollup_engine(arguments) as engine:
        chosen, missing = _rollups_there(arguments, engine)
        with engine.connect() as connection:
            found = [
                (rollup.source.key, each)
                for rollup in chosen
                for each in rollup_status(connection, rollup)
            ]
    if screen is None:
        write_json(
            {
                "tables": [
                    {
                        "source": source,
                        **{name: value for name, value in asdict(each).items() if name != "lag"},
                        "duration": each.duration and each.duration.total_seconds(),
                        "lag_seconds": each.lag.total_seconds(),
                    }
                    for source, each in found
                ]
            }
        )
        if missing:
            raise ExitError(" ".join(missing))
        return

    def shown(each: RollupStatus) -> tuple[Cell, ...]:
        return (
            each.table,
            f"{each.last_run.astimezone(UTC):%F %T %Z}" if each.last_run else "never",
            _NOTHING if each.duration is None else duration(each.duration.total_seconds()),
            each.pending,
            duration(each.lag.total_seconds()) if each.lag else _NOTHING,
            "yes" if each.complete else "backfill it",
            _NOTHING if each.horizon is None else f"{each.horizon.astimezone(UTC):%F %T %Z}",
            each.late,
            proved(each),
            _NOTHING if each.size is None else size(each.size),
        )

    def proved(each: RollupStatus) -> str:
        if each.proved_until is None:
            return _NOTHING
        until = f"{each.proved_until.astimezone(UTC):%F %R}"
        if each.proved_since is None:
            return f"until {until}"
        return f"{each.proved_since.astimezone(UTC):%F %R} to {until}"

    headers = (
        *("table", "last run", "took", "pending", "lag", "complete", "raw rows since"),
        *("late", "proved", "size"),
    )
    rows = [shown(each) for _, each in found]
    screen.table(headers, rows, numeric=("took", "pending", "lag", "late", "size"))
    for source, (failed_at, error) in {s: (e.failed_at, e.error) for s, e in found}.items():
        if failed_at is not None:
            at = f"{failed_at.astimezone(UTC):%F %T %Z}"
            screen.warn(printable(f"The last run of {source} failed at {at}: {error}"))
    screen.note("Python: rollup_status(session, rollup)")
    if missing:
        raise ExitError(" ".join(missing))


def rollups_verify(arguments: Namespace) -> None:
    """Compare rollups with their sources.

    Raises:
        ExitError: Something differs, or the database does not have all of them.
    """
    found, problems = _reconciled(arguments, verify, "Comparing")
    wrong = [each for each in found if each["groups"]]
    if arguments.json:
        write_json({"adds_up": not wrong, "tables": found})
    for each in () if arguments.json else found:
        words = _reconciled_words(each, off="differ", right="adds up")
        write(words + (", and lack:" if each["examples"] else ""))
        write(*(printable(f"  {example}") for example in each["examples"]))
        if each["examples"] and each["groups"] > len(each["examples"]):
            write("  ...")
    if wrong:
        advice = "`citus-analytics rollups repair` adds what is missing."
        if not all(each["complete"] for each in wrong):
            advice = "Not all rows have been added up yet: run `citus-analytics rollups backfill`."
        names = ", ".join(f"{each['table']} ({each['groups']:,})" for each in wrong)
        problems.insert(0, f"groups differ from their source in {names}. {advice}")
    if problems:
        raise ExitError(" ".join(problems))
    if not arguments.json:
        write("Python: verify(session, rollup)")


def rollups_repair(arguments: Namespace) -> None:
    """Add to rollups what they differ by from their sources.

    Raises:
        ExitError: The database does not have all of them.
    """
    found, missing = _reconciled(arguments, repair, "Repairing")
    if arguments.json:
        write_json({"groups": sum(each["groups"] or 0 for each in found), "tables": found})
    else:
        for each in found:
            write(_reconciled_words(each, off="repaired", right="adds up as it is"))
        write("Python: repair(session, rollup)")
    if missing:
        raise ExitError(" ".join(missing))


def _reconciled(
    arguments: Namespace, move: Callable[..., tuple[Difference, ...]], doing: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return what was found of each table, and what is to be said of rollups that are missing."""
    found = list[dict[str, Any]]()
    with _rollup_engine(arguments) as engine:
        chosen, missing = _rollups_there(arguments, engine)
        for rollup in chosen:
            with engine.begin() as connection, timed() as watch, waiting(f"{doing} {rollup.name}"):
                states = {each.table: each for each in rollup_status(connection, rollup)}
                differences: tuple[Difference, ...] = ()
                if rollup.time is not None:
                    window = {"since": arguments.since, "until": arguments.until}
                    differences = move(connection, rollup, **window)
                # Totals over all time are compared as a whole, while their source is complete.
                elif all(each.horizon is None for each in states.values()):
                    differences = move(connection, rollup)
            groups = {each.table: each for each in differences}
            found += (
                {
                    "rollup": rollup.name,
                    "source": rollup.source.key,
                    "table": table,
                    "groups": groups[table].groups if table in groups else None,
                    "examples": groups[table].examples if table in groups else (),
                    "complete": state.complete,
                    "horizon": state.horizon,
                    "seconds": round(watch.seconds / len(states), 6),
                }
                for table, state in states.items()
            )
    return found, missing


def _reconciled_words(each: Mapping[str, Any], *, off: str, right: str) -> str:
    took = duration(each["seconds"])
    if each["groups"] is None:
        horizon = f"{each['horizon'].astimezone(UTC):%F %T %Z}"
        return f"{each['table']}: cannot be compared: rows from before {horizon} have been expired."
    if not each["groups"]:
        return f"{each['table']}: {right} ({took})."
    return f"{each['table']}: {plural(each['groups'], 'group')} {off} ({took})"


def rollups_audit(arguments: Namespace) -> None:
    """Compare rollups with their sources, a part at a time.

    Raises:
        ExitError: Something differs, or the database does not have all of them.
    """
    found = list[dict[str, Any]]()
    with _rollup_engine(arguments) as engine:
        chosen, refused = _rollups_there(arguments, engine)
        for rollup in chosen:
            windows = list[AuditedWindow]()
            try:
                with timed() as watch, waiting(f"Auditing {rollup.name}"):
                    windows += audit(
                        engine, rollup, window=arguments.window, budget=arguments.budget
                    )
            except RollupError as error:
                # The others can be audited.
                refused.append(str(error))
                continue
            found += ({"rollup": rollup.name, **asdict(each)} for each in windows)
            if not arguments.json:
                write(
                    f"{rollup.name}: {plural(len(windows), 'window')}, {duration(watch.seconds)}."
                )
    wrong = [each for each in found if each["groups"]]
    if arguments.json:
        write_json({"adds_up": not wrong, "windows": found})
    for each in () if arguments.json else wrong:
        since, until = (
            each[bound] and f"{each[bound].astimezone(UTC):%F %T %Z}"
            for bound in ("since", "until")
        )
        window = " ".join(filter(None, (since and f"from {since}", until and f"until {until}")))
        write(f"{each['table']}: {plural(each['groups'], 'group')} differ {window}, and lack:")
        write(*(printable(f"  {example}") for example in each["examples"]))
    if wrong:
        names = ", ".join(sorted({each["table"] for each in wrong}))
        refused.insert(
            0,
            f"groups differ from their source in {names}. `citus-analytics rollups repair` adds "
            "what is missing.",
        )
    if refused:
        raise ExitError(" ".join(refused))
    if not arguments.json:
        write("Python: for window in audit(engine, rollup): ...")


def rollups_backfill(arguments: Namespace) -> None:
    """Add up the rows that were there when rollups were created.

    Raises:
        ExitError: The database does not have all rollups, or refuses to fill them.
    """
    done, refused = list[dict[str, Any]](), list[str]()
    with _rollup_engine(arguments) as engine:
        for source, rollup in _sources_of(arguments).items():
            try:
                with timed() as watch:
                    windows = _backfill_source(engine, rollup, arguments.window)
            except RollupError as error:
                # The others can be filled.
                refused.append(f"{source}: {error}")
                continue
            done.append({"source": source, "windows": windows, "seconds": watch.seconds})
            if not arguments.json:
                what = f"{plural(windows, 'window')} added up" if windows else "complete already"
                write(f"{source}: {what}, in {duration(watch.seconds)}.")
    if arguments.json and (done or not refused):
        write_json({"windows": sum(each["windows"] for each in done), "sources": done})
    if refused:
        raise ExitError(" ".join(refused))
    if not arguments.json:
        write("Python: for window in backfill(engine, rollup): ...")


def _backfill_source(engine: Engine, rollup: Rollup, window: timedelta) -> int:
    """Backfill the rollups of a source with a progress bar; return the number of windows."""
    rollups = rollups_of(rollup.source.metadata)
    times = (each.time for each in rollups if each.source is rollup.source)
    time_column = next(filter(None, times), None)
    windows, newest, total = 0, None, None
    with ProgressBar() as bar:
        for since, until in backfill(engine, rollup, window=window):
            windows += 1
            if windows == 1 and since is not None and time_column is not None:
                newest = until or since + window
                column = rollup.source.c[time_column]
                first = select(func.min(column)).where(func.isfinite(column))
                with engine.connect() as connection:
                    oldest = connection.scalar(first)
                total = max((newest - oldest) / window, 1.0)
            reached = 0.0
            if newest is not None and total is not None:
                reached = total if since is None else min((newest - since) / window, total)
            back = "the beginning" if since is None else f"{since.astimezone(UTC):%F %H:%M %Z}"
            words = f"{plural(windows, 'window')}, back to {back}"
            bar.advance(f"Backfilling {rollup.source.key}", reached, total, words=words)
    return windows


def rollups_expire(arguments: Namespace) -> None:
    """Delete old raw rows of a source, and keep their aggregates.

    Raises:
        ArgumentError: There are several sources, and none is named.
    """
    sources = _sources_of(arguments)
    if not arguments.name:
        # Without a time nothing is old.
        dated = {name: each for name, each in sources.items() if each.spec().time is not None}
        sources = dated or sources
    if len(sources) > 1 and not arguments.name:
        raise ArgumentError(
            f"{arguments.metadata} has rollups of {', '.join(sources)}: name a rollup, so that "
            "only the rows of its source are deleted."
        )
    done = list[dict[str, Any]]()
    with _rollup_engine(arguments) as engine:
        for source, rollup in sources.items():
            with timed() as watch, waiting(f"Expiring {source}"):
                rows = expire(engine, rollup, arguments.before, window=arguments.window)
            done.append({"source": source, "deleted": rows, "seconds": watch.seconds})
            if not arguments.json:
                took = duration(watch.seconds)
                write(f"{source}: {plural(rows, 'row')} deleted; rollups keep theirs ({took}).")
    if arguments.json:
        write_json({"deleted": sum(each["deleted"] for each in done), "sources": done})
        return
    write(f"Python: expire(engine, rollup, {arguments.before!r})")


# status


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The server of a database.

    Attributes:
        postgresql: The version of PostgreSQL.
        citus: The version of Citus, or None if the database does not have it.
        workers: How many other nodes the cluster has.
        new_table_shards: How many shards a table gets that is distributed now, unless it asks for
            another number or for the company of a table that has one; 0 without Citus.
    """

    postgresql: str
    citus: str | None
    workers: int
    new_table_shards: int

    @classmethod
    def of(cls, connection: Connection) -> Server:
        """Ask the server behind a connection."""
        versions = text(
            "SELECT current_setting('server_version'),"
            " (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'citus')"
        )
        postgresql, citus = connection.execute(versions).one()
        workers = shards = 0
        if citus is not None:
            nodes = text(
                "SELECT count(*), current_setting('citus.shard_count')::int"
                " FROM pg_catalog.pg_dist_node"
                " WHERE groupid <> 0 AND noderole = 'primary' AND isactive"
            )
            workers, shards = connection.execute(nodes).one()
        return cls(
            # Without what packagers add: 18.1 (Debian 18.1-1), 13.2-1.
            postgresql=postgresql.split()[0],
            citus=citus and citus.partition("-")[0],
            workers=workers,
            new_table_shards=shards,
        )

    def __str__(self) -> str:
        if self.citus is None:
            return f"PostgreSQL {self.postgresql} without Citus: one node, no shards"
        return (
            f"PostgreSQL {self.postgresql} with Citus {self.citus}: a coordinator and "
            f"{plural(self.workers, 'worker node')}; new tables get "
            f"{plural(self.new_table_shards, 'shard')}"
        )


_KINDS: Final = {
    "distributed": "distributed",
    "single_shard": "single shard",
    "reference": "reference",
    "citus_local": "local, known to Citus",
    "local": "local",
}
# What does not apply. A cell that is None is "unknown": it applies, but cannot be found out.
_NOTHING: Final = "-"
_TABLES_NAMED: Final = 3


def add_status(commands: Commands) -> None:
    """Add `status`."""
    parser = add_command(
        commands,
        "status",
        status,
        "show the cluster: nodes, tables, sizes, skew",
        "Show what the database runs on, whether its nodes reach each other, how its tables are "
        "spread over them, how large and how even they are, and what needs attention. Changes "
        "nothing, and needs no privilege but to connect.",
    )
    add_database_url(parser)
    add_json(parser)


def status(arguments: Namespace) -> None:
    """Show the state of a cluster, or of a database without Citus."""
    screen = None if arguments.json else Screen()
    with engine_of(arguments).connect() as connection, waiting("Asking all nodes"):
        server, found = Server.of(connection), cluster_status(connection)
    if screen is None:
        write_json(_status_document(server, found))
        return
    screen.say(str(server))
    if found.citus is not None:
        _show_nodes(screen, found)
    _show_tables(screen, found)
    if found.citus is not None:
        _show_groups(screen, found)
        _show_skew(screen, found)
        warnings = plural(len(found.findings), "warning")
        screen.heading(warnings if found.findings else "Nothing needs attention.")
        for finding in found.findings:
            screen.warn(f"- {finding.message}")
    screen.note("Python: citus_analytics.catalog.cluster_status(connection)")


def add_explain(commands: Commands) -> None:
    """Add `explain`."""
    parser = add_command(
        commands,
        "explain",
        explain_statement,
        "say how Citus executes a statement",
        "Say whether Citus sends a statement to one node, executes it on all shards beside the "
        "data, or moves rows to do it. The statement is not executed.",
    )
    parser.add_argument("statement", metavar="SQL", help="the statement")
    add_database_url(parser)
    add_json(parser)


def explain_statement(arguments: Namespace) -> None:
    """Say how Citus executes a statement."""
    with engine_of(arguments).connect() as connection:
        shape = explain_shape(connection, arguments.statement)
    if arguments.json:
        write_json(asdict(shape))
    else:
        write(printable(str(shape)))


def _show_nodes(screen: Screen, found: ClusterStatus) -> None:
    loads = {load.node: load for load in found.loads}
    health = {node.node: node for node in found.health.nodes}

    def state(node: Node) -> str:
        if not node.active:
            return "inactive"
        if node.id in health and not health[node.id].reachable:
            return "does not answer"
        if any(link.source == node.id for link in found.health.broken):
            return "cannot reach all nodes"
        return "ok" if node.metadata_synced or node.role != "primary" else "metadata not synced"

    rows: list[tuple[Cell, ...]] = []
    bars = []
    for node in found.nodes:
        if node.role != "primary":
            role = f"{node.role}, group {node.group}"
        else:
            role = "coordinator" if node.is_coordinator else "worker"
        load = loads.get(node.id)
        held = (load.shards, _size(load.bytes)) if load else (_NOTHING, _NOTHING)
        rows.append((str(node.id), f"{node.host}:{node.port}", role, state(node), *held))
        bars.append(load.bytes or 0 if load else 0)
    headers = ("node", "address", "role", "state", "shards", "size")
    screen.heading("Nodes, and what they hold of sharded tables")
    screen.table(headers, rows, numeric=("node", "shards", "size"), bars=bars)


def _show_tables(screen: Screen, found: ClusterStatus) -> None:
    screen.heading("Tables, with all their copies, indexes and partitions")
    # Neither those of extensions, nor partitions, which are parts of others.
    shown = [
        (table, size.bytes)
        for table, size in zip(found.tables, found.sizes, strict=True)
        if table.extension is None and table.partition_of is None
    ]
    if not shown:
        screen.say("There are none.")
        return
    # The largest first, and before them those of unknown size, which may be larger.
    shown.sort(key=lambda pair: (pair[1] is not None, -(pair[1] or 0)))
    partitions = Counter(table.partition_of for table in found.tables)
    rows: list[tuple[Cell, ...]] = []
    for table, total in shown:
        if table.partitioned:
            storage = plural(partitions[table.qualified_name], "partition")
        else:
            storage = table.access_method or "foreign"
        spread: tuple[Cell, ...] = ()
        if found.citus is not None:
            spread = (
                f"{_KINDS[table.kind]}{', by schema' if table.in_distributed_schema else ''}",
                table.column or _NOTHING,
                str(table.colocation_id or _NOTHING),
                table.shard_count or _NOTHING,
            )
        rows.append((f"{table.schema}.{table.name}", *spread, storage, _size(total)))
    of_citus = () if found.citus is None else ("type", "column", "group", "shards")
    headers = ("table", *of_citus, "storage", "size")
    screen.table(headers, rows, numeric=("group", "shards", "size"))


def _show_groups(screen: Screen, found: ClusterStatus) -> None:
    shown = {
        table.qualified_name: f"{table.schema}.{table.name}"
        for table in found.tables
        if table.extension is None and table.partition_of is None
    }
    rows: list[tuple[Cell, ...]] = []
    for group in found.groups:
        members = [shown[name] for name in group.tables if name in shown]
        named = ", ".join(members[:_TABLES_NAMED])
        if len(members) > _TABLES_NAMED:
            named += f" and {len(members) - _TABLES_NAMED} more"
        copies = group.replication_factor or "every node"
        column_type = group.column_type or _NOTHING
        rows.append((str(group.id), group.shard_count, copies, column_type, named))
    if rows:
        headers = ("group", "shards", "copies", "column type", "tables")
        screen.heading("Colocation groups, whose tables join without leaving a node")
        screen.table(headers, rows, numeric=("group", "shards", "copies"))


def _show_skew(screen: Screen, found: ClusterStatus) -> None:
    skew = [(table, table.ratio) for table in found.skew if table.ratio is not None]
    if not skew:
        return
    skew.sort(key=lambda pair: -pair[1])
    rows = [
        (
            f"{table.schema}.{table.name}",
            table.shards,
            _size(table.mean_bytes),
            _size(table.largest_bytes),
            f"{ratio:.2f}",
        )
        for table, ratio in skew
    ]
    headers = ("table", "shards", "mean", "largest", "ratio")
    screen.heading("Skew, the largest shard of a table over the mean of its shards")
    screen.table(headers, rows, numeric=headers[1:], bars=[ratio for _, ratio in skew])


def _size(number: float | None) -> str | None:
    return None if number is None else size(number)


def _status_document(server: Server, found: ClusterStatus) -> dict[str, Any]:
    """Return the status for `--json`: what is known about a node, or a table, in one place."""
    health = {node.node: node for node in found.health.nodes}
    loads = {load.node: load for load in found.loads}
    skew = {(table.schema, table.name): table.ratio for table in found.skew}
    return {
        "server": server,
        "nodes": [
            {
                **asdict(node),
                "reachable": health[node.id].reachable if node.id in health else None,
                "error": health[node.id].error if node.id in health else None,
                "shards": loads[node.id].shards if node.id in loads else None,
                "bytes": loads[node.id].bytes if node.id in loads else None,
            }
            for node in found.nodes
        ],
        "links": found.health.links,
        "tables": [
            {**asdict(table), "bytes": size.bytes, "skew": skew.get((table.schema, table.name))}
            for table, size in zip(found.tables, found.sizes, strict=True)
        ],
        "colocation_groups": found.groups,
        "findings": found.findings,
    }


# grafana


def add_grafana(commands: Commands, *, metadata: str | None = None) -> None:
    """Add `grafana`.

    Args:
        commands: Where it is added.
        metadata: Whose rollups are shown unless `--metadata` is given; None if that is required.
    """
    parser = add_command(
        commands,
        "grafana",
        grafana,
        "write a dashboard of the rollups for Grafana",
        "Write what Grafana is provisioned with: a data source, and a dashboard over the fresh "
        "views of all rollups. Neither the database nor Grafana is needed for that. Files of the "
        "same names are replaced. The password is not written: Grafana reads it from "
        f"{PASSWORD_VARIABLE}.",
    )
    parser.add_argument(
        "directory",
        metavar="DIRECTORY",
        help="where to; the directory that paths.provisioning of Grafana's settings names",
    )
    parser.add_argument(
        "--metadata",
        default=metadata,
        required=metadata is None,
        metavar="MODULE:NAME",
        help="the metadata, or the declarative base, that declares the rollups"
        + (f" (default: {metadata})" if metadata else ""),
    )
    parser.add_argument("--title", default="Rollups", help="of the dashboard (default: Rollups)")
    add_database_url(
        parser, "the database, with the role that Grafana is to use (default: DATABASE_URL)"
    )


def grafana(arguments: Namespace) -> None:
    """Write the files, and print their names.

    Raises:
        ExitError: The metadata cannot be imported, or no database is given.
        ArgumentError: The metadata declares no rollups.
    """
    metadata = metadata_of(arguments.metadata)
    directory = Path(arguments.directory)
    for path in write_grafana(directory, metadata, url_of(arguments), title=arguments.title):
        write(str(path))


# lint


def add_lint(commands: Commands) -> None:
    """Add `lint`."""
    parser = add_command(
        commands,
        "lint",
        lint,
        "find what Citus will refuse, without a database",
        "Check declared tables and Alembic migrations for what a Citus cluster refuses, or accepts "
        "and suffers from later. No migration is run.",
    )
    parser.add_argument(
        "targets",
        nargs="*",
        metavar="TARGET",
        help="a folder with migrations, or metadata as package.module:Base (default: the "
        "migrations that alembic.ini names)",
    )
    parser.add_argument(
        "--citus",
        type=_version,
        default=(13, 2),
        metavar="VERSION",
        help="the version whose limits apply (default: 13.2)",
    )
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="CODE",
        help="a code to leave out, such as CA012; can be given several times",
    )
    parser.add_argument(
        "--format",
        choices=("text", "json", "github"),
        default="text",
        help="how to print findings; github: as annotations of a workflow",
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--explain", metavar="CODE", help="explain a code, and end")
    only.add_argument(
        "--sql",
        metavar="REV",
        help="print the SQL that upgrades to a revision from the one before, or REV:REV from one "
        "to another, and end; for linters of SQL",
    )


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    if not (major.isdecimal() and minor.isdecimal() and text.isascii()):
        raise ArgumentTypeError(f"{text!r} is not a version of Citus: write it like 13.2")
    return int(major), int(minor)


def lint(arguments: Namespace) -> None:
    """Check metadata and migrations, and print what a cluster would refuse or suffer from.

    Raises:
        ExitError: There are findings, or a target cannot be imported.
        ArgumentError: A target or a code does not exist.
    """
    if arguments.explain is not None:
        write(_explanation(arguments.explain))
        return
    if arguments.sql is not None:
        write(_sql_of(arguments.sql, arguments.targets).rstrip("\n"))
        return
    targets = arguments.targets or _migrations_of_alembic_ini()
    declared = [target for target in targets if ":" in target and not Path(target).exists()]
    folders = [target for target in targets if target not in declared]
    options = {"citus": arguments.citus, "ignore": arguments.ignore}
    findings: list[Finding] = []
    # All metadata are checked as one, and so are all folders.
    if folders:
        findings += lint_migrations(*folders, **options)
    if declared:
        findings += lint_metadata(*map(metadata_of, declared), **options)
    match arguments.format:
        case "json":
            version = "{}.{}".format(*arguments.citus)
            write_json({"citus": version, "findings": findings})
        case "github":
            write(*map(_annotation, findings))
        case _:
            write(*([printable(str(finding)) for finding in findings] or ["No findings."]))
    if findings:
        raise ExitError(f"{plural(len(findings), 'finding')} in {', '.join(targets)}.")


def _explanation(code: str) -> str:
    rule = RULES.get(code.upper())
    if rule is None:
        raise ArgumentError(
            f"{code!r} is not a code of the linter; they are {', '.join(sorted(RULES))}."
        )
    facts: list[str] = [rule.severity]
    if rule.since is not None:
        facts.append("since Citus {}.{}".format(*rule.since))
    if rule.until is not None:
        facts.append("before Citus {}.{}".format(*rule.until))
    return f"{rule.code} ({', '.join(facts)}): {rule.title}.\n\n{rule.explanation}"


def _sql_of(revision: str, targets: list[str]) -> str:
    """Return the SQL of a revision or of a range, as Alembic's own `--sql` writes it."""
    if len(targets) > 1:
        raise ArgumentError("--sql takes one folder with migrations, which has an env.py.")
    if targets:
        folder = Path(targets[0])
        if folder.name == "versions" and not (folder / "env.py").exists():
            folder = folder.parent
        if not (folder / "env.py").is_file():
            raise ArgumentError(f"{targets[0]!r} has no env.py, which --sql runs.")
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
    elif Path("alembic.ini").exists():
        config = Config("alembic.ini")
    else:
        raise ArgumentError(
            "--sql needs a folder with migrations (there is no alembic.ini here that names one)."
        )
    config.output_buffer = buffer = StringIO()
    try:
        if ":" in revision:
            upgrade(config, revision, sql=True)
            return buffer.getvalue()
        scripts = ScriptDirectory.from_config(config)
        script = scripts.get_revision(revision)
        if script is None:
            raise ArgumentError("--sql needs a revision, and the base is none.")
        step = RevisionStep.upgrade_from_script(scripts.revision_map, script)
        # A merge starts from all revisions before it, which Alembic's command cannot name.
        with EnvironmentContext(
            config,
            scripts,
            fn=lambda *_: [step],
            as_sql=True,
            starting_rev=script.down_revision,
            destination_rev=script.revision,
        ):
            scripts.run_env()
    except CommandError as error:
        raise ArgumentError(f"{revision}: {error}") from error
    return buffer.getvalue()


def _migrations_of_alembic_ini() -> list[str]:
    ini = Path("alembic.ini")
    if not ini.exists():
        raise ArgumentError(
            "nothing to check: name a folder with migrations, or metadata as package.module:Base "
            "(there is no alembic.ini here that says where migrations are)."
        )
    try:
        scripts = ScriptDirectory.from_config(Config(str(ini)))
    except CommandError as error:
        raise ArgumentError(f"alembic.ini does not say where migrations are: {error}") from error
    folders = map(coerce_resource_to_filename, scripts.version_locations or [scripts.versions])
    return [os.path.relpath(folder) for folder in folders]


def _annotation(finding: Finding) -> str:
    """Return a finding as a workflow command of GitHub Actions."""

    def escaped(text: str) -> str:
        return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")

    place, message = "", f"{finding.subject}: {finding.message}"
    if finding.path is not None:
        path = escaped(finding.path).replace(":", "%3A").replace(",", "%2C")
        place, message = f"file={path},line={finding.line},", finding.message
    return f"::{finding.severity} {place}title={finding.code}::{escaped(message)}"
