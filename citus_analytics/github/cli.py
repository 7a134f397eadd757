"""The commands about GitHub's events: migrate, load, follow and query; `demo` is beside them."""

from __future__ import annotations

import logging
import os
import sys
import time
from argparse import SUPPRESS
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple, dataclass, replace
from datetime import UTC, timedelta
from functools import partial
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeAlias

from alembic import command
from alembic.runtime.migration import MigrationContext
from psycopg.errors import DuplicateDatabase, UniqueViolation
from sqlalchemy.exc import DBAPIError

from citus_analytics.cli.commands import rolled_up
from citus_analytics.cli.main import (
    Exit,
    ExitError,
    Interrupts,
    add_command,
    add_database_url,
    add_json,
    engine_of,
    moment,
    positive,
    printable,
    silenced,
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
    write,
    write_json,
)
from citus_analytics.copy import expand
from citus_analytics.copy.source import without_password
from citus_analytics.errors import ArgumentError, RollupError
from citus_analytics.github.analytics import (
    HourlyCommits,
    RepositoryCreator,
    UserActivity,
    commits_per_hour,
    count_events,
    most_active_users,
    top_repository_creators,
)
from citus_analytics.github.follow import GITHUB, Feed, FollowOptions, follow
from citus_analytics.github.load import ENDINGS, LoadOptions, load_files, write_reject
from citus_analytics.github.migrate import configuration, downgrade, upgrade
from citus_analytics.github.models import (
    GITHUB_LOGINS,
    GITHUB_ROLLUP_1MIN,
    github_events,
    github_users,
)
from citus_analytics.rollups.run import run_rollup
from citus_analytics.sql import logger

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator, Mapping

    from sqlalchemy import URL, Connection

    from citus_analytics.cli.main import Commands
    from citus_analytics.cli.output import Cell
    from citus_analytics.copy import LoadResult, Progress
    from citus_analytics.github.events import Reject
    from citus_analytics.github.follow import Poll
    from citus_analytics.github.load import Source


# migrate


def add_migrate(commands: Commands) -> None:
    """Add `migrate`, which runs the built-in migrations."""
    parser = add_command(
        commands,
        "migrate",
        migrate,
        "create or change the tables",
        "Bring the tables to a revision, in one transaction, and print which one they are at.",
    )
    add_database_url(parser)
    parser.add_argument(
        "--create",
        action="store_true",
        help="create the database first if it does not exist; with --citus require, with Citus",
    )
    revisions = parser.add_mutually_exclusive_group()
    revisions.add_argument(
        "--revision", default="head", metavar="REV", help="upgrade to this one (default: head)"
    )
    revisions.add_argument(
        "--downgrade",
        metavar="REV",
        help="go back to this one; base drops all tables and their data",
    )
    parser.add_argument(
        "--citus",
        choices=("auto", "require", "skip"),
        default="auto",
        help="distribute the tables if the database has Citus (auto, the default), fail if it does "
        "not (require), or never distribute (skip)",
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument(
        "--sql", action="store_true", help="print the SQL for psql instead; needs no database"
    )
    add_json(output)


def migrate(arguments: Namespace) -> None:
    """Bring the tables to a revision, or print the SQL that would.

    Raises:
        ArgumentError: A database is to be created for `--sql`, or the address names none.
    """
    back = arguments.downgrade
    if arguments.sql:
        if arguments.create:
            raise ArgumentError("--sql connects to no database, and so cannot --create one.")
        config = configuration("postgresql://", citus=arguments.citus)
        # Printed at the end: nobody should run a script that an error has cut short.
        config.output_buffer = script = StringIO()
        with _migrations_announced():
            if back:
                # Without a database Alembic does not know the revision to start from.
                command.downgrade(config, back if ":" in back else f"head:{back}", sql=True)
            else:
                command.upgrade(config, arguments.revision, sql=True)
        write(script.getvalue().rstrip())
        return
    created = arguments.create and _create_database(url_of(arguments))
    if created and arguments.citus == "require":
        with engine_of(arguments).begin() as connection:
            connection.exec_driver_sql("CREATE EXTENSION citus")
    with (
        _migrations_announced(),
        engine_of(arguments).begin() as connection,
        timed() as watch,
    ):
        context = MigrationContext.configure(connection)
        before = context.get_current_heads()
        if back:
            downgrade(connection, back, citus=arguments.citus)
        else:
            upgrade(connection, arguments.revision, citus=arguments.citus)
        after = context.get_current_heads()
    # Several, where an application has its own revisions beside the built-in ones.
    previous, now = (", ".join(sorted(heads)) or None for heads in (before, after))
    if arguments.json:
        write_json(
            {
                "revision": now,
                "previous_revision": previous,
                "created": created,
                "seconds": watch.seconds,
            }
        )
        return
    state = f"at revision {now}" if now else "without the built-in tables"
    change = "as before" if previous == now else f"previously at {previous or 'none'}"
    call = f"downgrade(url, {back!r})" if back else f"upgrade(url, {arguments.revision!r})"
    write(
        f"The database is {state}, {change} ({duration(watch.seconds)}).",
        f"Python: citus_analytics.github.migrate.{call}",
    )


def _create_database(url: URL) -> bool:
    """Create a database if there is none of its name; return whether it was created."""
    # Imported here, because nothing else of the command line needs it.
    from sqlalchemy_utils import create_database, database_exists

    if url.database is None:
        raise ArgumentError(
            "the database URL names no database to create: postgresql://user@host/name."
        )
    if database_exists(url):
        return False
    try:
        create_database(url)
    except DBAPIError as error:
        # Another process has been faster.
        if isinstance(error.orig, DuplicateDatabase | UniqueViolation):
            return False
        raise
    sys.stderr.write(f"Created the database {printable(url.database)}.\n")
    return True


@contextmanager
def _migrations_announced() -> Iterator[None]:
    """Say on standard error which migrations run, and what the server says about them."""
    handler = logging.StreamHandler(sys.stderr)
    # Alembic also logs which dialect it uses.
    handler.addFilter(
        lambda record: (
            record.levelno >= logging.WARNING or record.getMessage().startswith("Running")
        )
    )
    alembic, own = logging.getLogger("alembic.runtime"), logger()
    level = alembic.level
    alembic.setLevel(logging.INFO)
    for each in (alembic, own):
        each.addHandler(handler)
    try:
        yield
    finally:
        alembic.setLevel(level)
        for each in (alembic, own):
            each.removeHandler(handler)


# load

_TABLES: Final = {"events": github_events, "users": github_users}
_REJECTS_SHOWN: Final = 3


def add_load(commands: Commands) -> None:
    """Add `load`."""
    parser = add_command(
        commands,
        "load",
        load,
        "load events or users, each file once",
        "Load CSV in the layout of the table or with a header, or events in JSON as GH Archive and "
        "GitHub's API have them, plain or gzipped. Each file is loaded completely or not at all, "
        "and its content is not loaded again. Users are loaded from events in JSON as well.",
    )
    parser.add_argument("table", choices=tuple(_TABLES), help="what the rows are")
    parser.add_argument(
        "source",
        nargs="+",
        metavar="SOURCE",
        help="a path, a folder, an http(s) address, a range such as 2015-01-01-{0..5}.json.gz, "
        "or - for standard input",
    )
    parser.add_argument(
        "--force", action="store_true", help="load again what is loaded, in place of its rows"
    )
    parser.add_argument(
        "--unique",
        action="store_true",
        help="leave out rows that are in the table already, from whatever source",
    )
    parser.add_argument(
        "--strict", action="store_true", help="fail at the first event that cannot be stored"
    )
    parser.add_argument(
        "--rejects",
        metavar="FILE",
        help="append events that cannot be stored, as JSON lines (some twice after a failed load)",
    )
    parser.add_argument(
        "--format", choices=("auto", "csv", "json"), default="auto", help="default: auto"
    )
    parser.add_argument(
        "--header",
        action="store_true",
        help="the first line of CSV names the columns, in any order",
    )
    parser.add_argument(
        "--require-time-zone",
        action="store_true",
        help="refuse CSV with times that have no zone, which are in UTC otherwise, or with words "
        "such as now",
    )
    parser.add_argument(
        "--connections",
        type=positive,
        default=1,
        metavar="N",
        help="load a large file over N connections (default: 1)",
    )
    parser.add_argument(
        "--indexes-later",
        action="store_true",
        help="if the table is empty, build its indexes at the end: a first load is faster",
    )
    add_database_url(parser)
    add_json(parser)


def load(arguments: Namespace) -> None:
    """Load files, each in transactions of its own.

    Raises:
        ExitError: The file of `--rejects` cannot be written, or the load was interrupted.
        ArgumentError: The file of `--rejects` is one of the sources.
    """
    table = _TABLES[arguments.table]
    sources = [name for source in arguments.source for name in expand(source, ENDINGS)]
    engine = engine_of(arguments)
    path = arguments.rejects
    if path is not None and Path(path).resolve() in {Path(source).resolve() for source in sources}:
        raise ArgumentError(
            f"{path} is to be loaded, and --rejects would write to it: name another file."
        )
    with (
        _open_rejects(path) as rejects,
        ProgressBar() as bar,
        timed() as whole,
    ):
        report = _LoadReport(arguments, rejects, bar)
        try:
            load_files(
                engine,
                table,
                sources,
                options=LoadOptions(
                    format=arguments.format,
                    unique=arguments.unique,
                    header=arguments.header,
                    require_time_zone=arguments.require_time_zone,
                    strict=arguments.strict,
                    rejects=report.rejected,
                ),
                force=arguments.force,
                connections=arguments.connections,
                indexes_later=arguments.indexes_later,
                started=report.started,
                loaded=report.loaded,
                building_indexes=report.building_indexes,
                progress=report.progress,
            )
        except BaseException as error:
            if not was_interrupted(error):
                raise
            done = len(report.files)
            # Between two files, or after the last one, more may be stored than was reported.
            during = f"while loading {_name(report.source)}, " if done < len(sources) else ""
            raise ExitError(
                f"interrupted {during}after {done} of {plural(len(sources), 'file')}. Run the same "
                "command again: it loads what is missing.",
                Exit.INTERRUPTED,
            ) from error

    new = [file for file in report.files if not file["already_loaded"]]
    sums = {
        name: sum(file[name] for file in new)
        for name in ("rows", "bytes", "rejected", "duplicates")
    }
    if arguments.json:
        document = {"table": table.name, **sums, "seconds": whole.seconds, "files": report.files}
        write_json({**document, "already_loaded": len(report.files) - len(new)})
        return
    if sums["rejected"] and rejects is None:
        write(f"{plural(sums['rejected'], 'event')} rejected: --force --rejects FILE keeps them.")
    options = [
        f"{name}={getattr(arguments, name)!r}"
        for name, default in (
            ("format", "auto"),
            ("unique", False),
            ("header", False),
            ("require_time_zone", False),
            ("strict", False),
        )
        if getattr(arguments, name) != default
    ]
    parts = ["engine", table.name, repr([*map(without_password, arguments.source)])]
    if options:
        parts.append(f"options=LoadOptions({', '.join(options)})")
    if arguments.force:
        parts.append("force=True")
    if arguments.connections > 1:
        parts.append(f"connections={arguments.connections}")
    if arguments.indexes_later:
        parts.append("indexes_later=True")
    write(f"Python: load_files({', '.join(parts)})")


class _LoadReport:
    """What is said about each file while `load_files` loads one after the other.

    Attributes:
        files: What has come of each file so far, for `--json`.
        source: The file that is being loaded.
    """

    def __init__(
        self,
        arguments: Namespace,
        rejects: BinaryIO | None,
        bar: ProgressBar,
    ) -> None:
        self.files: list[dict[str, Any]] = []
        self.source = ""
        self._arguments = arguments
        self._rejects = rejects
        self._rejected = 0
        self._bar = bar
        self._since = time.perf_counter()

    def started(self, source: Source) -> None:
        self.source = without_password(str(source))
        self._since = time.perf_counter()

    def progress(self, so_far: Progress) -> None:
        self._bar.show(f"Loading {_name(self.source)}", so_far)

    def rejected(self, reject: Reject) -> None:
        """Write a reject to the file, or show the first few."""
        if self._rejects is not None:
            write_reject(self._rejects, self.source, reject)
            return
        self._rejected += 1
        if self._rejected <= _REJECTS_SHOWN:
            line = printable(f"{self.source}, line {reject.line}: {reject.reason}")
            sys.stderr.write(f"rejected: {line}\n")

    def loaded(self, _source: Source, result: LoadResult) -> None:
        self._bar.clear()
        seconds = round(time.perf_counter() - self._since, 6)
        self.files.append({"source": self.source, **asdict(result), "seconds": seconds})
        if not self._arguments.json:
            if result.already_loaded:
                outcome = (
                    f"already loaded ({result.rows:,} rows); nothing to do. --force loads it again."
                )
            else:
                table = _TABLES[self._arguments.table]
                outcome = f"into {table.name}: {loaded(result, seconds)}"
                if result.rejected:
                    outcome += f" {plural(result.rejected, 'event')} rejected."
                if result.duplicates:
                    outcome += f" {plural(result.duplicates, 'row')} there already."
            write(f"{_name(self.source)}: {outcome}")

    def building_indexes(self) -> None:
        table = _TABLES[self._arguments.table]
        sys.stderr.write(f"Building the indexes of {table.name}.\n")


def _name(source: str) -> str:
    return "standard input" if source == "-" else source


def loaded(result: LoadResult, seconds: float) -> str:
    """Return how much was loaded, and how fast."""
    return (
        f"{result.rows:,} rows, {size(result.bytes)}, in {duration(seconds)}: "
        f"{result.rows / max(seconds, 1e-6):,.0f} rows a second."
    )


@contextmanager
def _open_rejects(path: str | None) -> Iterator[BinaryIO | None]:
    """Open the file of `--rejects`, if there is one, to append to it.

    Appended to, because what was rejected before does not come again. Unbuffered, so that what is
    written is there before anything is committed.
    """
    if path is None:
        yield None
        return
    try:
        file = Path(path).open("ab", buffering=0)  # noqa: SIM115 - closed below
    except OSError as error:
        raise ExitError(
            f"the file of --rejects, {path}, cannot be written: {error.strerror}. Nothing was "
            "loaded; name another file."
        ) from error
    with file:
        yield file


# follow

_COUNTED: Final = ("new", "known", "rejected")


def add_follow(commands: Commands) -> None:
    """Add `follow`."""
    parser = add_command(
        commands,
        "follow",
        follow_feed,
        "follow GitHub's events live",
        "Poll GitHub's events API as often as it allows, and store what is new, each event once. "
        "Started again, it continues where it stopped. A token in GITHUB_TOKEN raises the limit "
        "from 60 to 5,000 requests an hour. Ctrl-C and SIGTERM end it with exit code 0.",
    )
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--repo", metavar="OWNER/NAME", help="the events of a repository")
    whose.add_argument("--org", metavar="NAME", help="the events of an organization")
    whose.add_argument("--user", metavar="LOGIN", help="what a user does")
    parser.add_argument(
        "--api",
        default=GITHUB,
        metavar="URL",
        help=f"where GitHub's API is (default: {GITHUB}); of GitHub Enterprise Server, "
        "https://HOSTNAME/api/v3",
    )
    ends = parser.add_mutually_exclusive_group()
    ends.add_argument(
        "--once", action="store_true", help="poll once, and fail if that is not possible"
    )
    ends.add_argument(
        "--max-polls",
        type=positive,
        metavar="N",
        help="stop after N polls, not counting failed ones (default: never)",
    )
    parser.add_argument(
        "--rollup", action="store_true", help="bring the rollups up to date after new events"
    )
    parser.add_argument(
        "--rejects", metavar="FILE", help="append events that cannot be stored, as JSON lines"
    )
    add_database_url(parser)
    parser.add_argument(
        "--json",
        action="store_true",
        help="print a JSON document on a line of its own for each poll, and one at the end",
    )


def follow_feed(arguments: Namespace) -> None:
    """Follow a feed until the polls asked for are made, or a signal comes."""
    feed = Feed(repo=arguments.repo, org=arguments.org, user=arguments.user, api=arguments.api)
    engine, interrupts = engine_of(arguments), Interrupts()
    totals = Counter(dict.fromkeys(("polls", "failed", *_COUNTED, "gaps"), 0))
    with (
        _open_rejects(arguments.rejects) as rejects,
        # The lines about the polls say the same.
        silenced("citus_analytics.github"),
        timed() as whole,
        interrupts.handled(),
    ):
        options = FollowOptions(
            token=os.environ.get("GITHUB_TOKEN", "").strip() or None,
            max_polls=1 if arguments.once else arguments.max_polls,
            max_failures=1 if arguments.once else None,
            rejects=None if rejects is None else partial(write_reject, rejects, feed.address),
        )
        polls = follow(engine, feed, options=options, wait=interrupts.wait, shield=interrupts.held)
        try:
            for poll in polls:
                totals["failed" if poll.problem else "polls"] += 1
                totals["gaps"] += poll.gap is not None
                totals.update({name: getattr(poll, name) for name in _COUNTED})
                run = None
                with timed() as watch:
                    if arguments.rollup and poll.new:
                        with interrupts.held(), engine.begin() as connection:
                            run = run_rollup(connection, GITHUB_ROLLUP_1MIN)
                        # An application may have left it out.
                        with interrupts.held(), suppress(RollupError), engine.begin() as connection:
                            run_rollup(connection, GITHUB_LOGINS)
                if arguments.json:
                    document = {
                        **asdict(poll),
                        "lag_seconds": poll.lag and poll.lag.total_seconds(),
                        "rollup": run and {**asdict(run), "seconds": watch.seconds},
                    }
                    write_json({"poll": document}, indent=None)
                else:
                    write(*map(printable, _poll_lines(poll)))
                    if run is not None:
                        write(f"  Rollup: {rolled_up(run.changes, watch.seconds)}")
                # Whoever reads along, through a pipe or in a file, sees it now.
                sys.stdout.flush()
        except KeyboardInterrupt:
            if interrupts.forced:
                raise

    if arguments.json:
        end = {"seconds": whole.seconds, "interrupted": interrupts.asked}
        write_json({"summary": {**totals, **end}}, indent=None)
        return
    summary = (
        f"{plural(totals['polls'], 'poll')}, {totals['failed']:,} failed: {_events(totals)}, "
        f"{plural(totals['gaps'], 'gap')}."
    )
    if interrupts.asked:
        summary += (
            " Interrupted; what was polled is stored, and the same command goes on from there."
        )
    given = {"repo": feed.repo, "org": feed.org, "user": feed.user}
    given["api"] = None if feed.api == GITHUB else feed.api
    named = ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)
    write(summary, f"Python: follow(engine, Feed({named}))")


def _poll_lines(poll: Poll) -> Iterator[str]:
    match poll.outcome:
        case "unchanged":
            parts = ["nothing new"]
        case "failed":
            parts = ["failed"]
        case "loaded":
            parts = [_events({name: getattr(poll, name) for name in _COUNTED})]
    if poll.lag is not None:
        parts.append(f"newest {timedelta(seconds=int(poll.lag.total_seconds()))} old")
    if poll.remaining is not None:
        parts.append(f"{plural(poll.remaining, 'request')} left")
    parts.append(f"next poll in {duration(poll.next_in)}")
    yield f"{poll.at:%Y-%m-%d %H:%M:%S %Z}: {'; '.join(parts)}"
    if poll.problem is not None:
        effect = "Further pages could not be read" if poll.pages else "Nothing was loaded"
        yield f"  {effect}: {poll.problem}"
    if poll.gap is not None:
        since, until = poll.gap.since, poll.gap.until
        yield f"  Gap: events may have been missed from {since:%F %T %Z} to {until:%F %T %Z}."


def _events(counts: Mapping[str, int]) -> str:
    return (
        f"{plural(counts['new'], 'event')} new, {counts['known']:,} there already, "
        f"{counts['rejected']:,} rejected"
    )


# query

Row: TypeAlias = HourlyCommits | RepositoryCreator | UserActivity


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question of `query` whose answer is a table.

    Attributes:
        function: The library's function that answers it.
        title: What the answer is.
        headers: The columns of the answer; the last one is a number.
        nothing: What is said of an empty answer.
    """

    function: Callable[..., Sequence[Row]]
    title: str
    headers: tuple[str, ...]
    nothing: str

    def ask(self, connection: Connection, filters: Mapping[str, Any]) -> list[Row]:
        """Return the answer, with times in UTC.

        The hours of commits stay in the zone that was asked for.
        """
        return [
            replace(row, minute=row.minute.astimezone(UTC))
            if isinstance(row, UserActivity)
            else row
            for row in self.function(connection, **filters)
        ]

    def show(self, screen: Screen, rows: Sequence[Row]) -> None:
        """Write an answer as a table, with a bar for the number at the end of each row."""
        if not rows:
            screen.say(self.nothing)
            return
        cells: list[tuple[Cell, ...]] = [
            # An id is a name, not a number to be read with commas.
            (None if row.user_id is None else str(row.user_id), row.minute, row.events)
            if isinstance(row, UserActivity)
            else astuple(row)
            for row in rows
        ]
        bars = [row[-1] if isinstance(row[-1], int) else 0 for row in cells]
        screen.table(self.headers, cells, numeric=self.headers[-1:], bars=bars)


QUESTIONS: Final = {
    "commits-per-hour": Question(
        function=commits_per_hour,
        title="Commits per hour",
        headers=("hour", "commits"),
        nothing="No pushes found.",
    ),
    "top-creators": Question(
        function=top_repository_creators,
        title="Who created the most repositories",
        headers=("login", "repositories"),
        nothing="No repositories found that a known user has created.",
    ),
    "most-active": Question(
        function=most_active_users,
        title="Most active users, by the minute",
        headers=("user", "minute", "events"),
        nothing="Nothing found.",
    ),
}


def call_of(function: Callable[..., object], filters: Mapping[str, object]) -> str:
    """Return the call of a library function with these filters, as it is written in Python."""
    arguments = "".join(f", {name}={value!r}" for name, value in filters.items())
    return f"{function.__name__}(session{arguments})"


def add_query(commands: Commands) -> None:
    """Add `query`."""
    parser = add_command(commands, "query", query, "ask one of four questions", "Ask a question.")
    questions = parser.add_subparsers(
        dest="question", required=True, metavar="QUESTION", title="questions"
    )

    def add_question(name: str, text: str) -> ArgumentParser:
        question = add_command(questions, name, query, text, text.capitalize())
        add_database_url(question)
        for bound, meaning in (("since", "at this time or later"), ("until", "before this time")):
            question.add_argument(
                f"--{bound}",
                type=moment,
                default=SUPPRESS,
                metavar="TIME",
                help=f"consider events that happened {meaning}, to the instant, such as "
                "2026-03-01T12:00Z",
            )
        add_json(question)
        return question

    count = add_question("count", "how many events are there?")
    count.add_argument(
        "--type",
        dest="event_type",
        default=SUPPRESS,
        metavar="TYPE",
        help="of this type only, such as PushEvent",
    )
    commits = add_question("commits-per-hour", "how many commits were pushed every hour?")
    commits.add_argument(
        "--time-zone",
        default="UTC",
        metavar="ZONE",
        help="the time zone of the hours, such as Europe/Berlin (default: UTC)",
    )
    creators = add_question("top-creators", "who created the most repositories?")
    active = add_question("most-active", "which users were most active, and in which minutes?")
    for question, limit in ((creators, 10), (active, 5)):
        question.add_argument(
            "--limit",
            type=_limit,
            default=limit,
            metavar="N",
            help=f"how many rows, or all (default: {limit})",
        )


def _limit(text: str) -> int | None:
    return None if text == "all" else positive(text)


def query(arguments: Namespace) -> None:
    """Ask one of the four questions."""
    # Those that have no default are there only if they were given.
    names = ("since", "until", "event_type", "time_zone", "limit")
    filters = {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}
    if arguments.question == "count":
        with engine_of(arguments).connect() as connection:
            events = count_events(connection, **filters)
        if arguments.json:
            write_json({"events": events})
        else:
            write(plural(events, "event"), f"Python: {call_of(count_events, filters)}")
        return
    question = QUESTIONS[arguments.question]
    screen = None if arguments.json else Screen()
    with engine_of(arguments).connect() as connection:
        rows = question.ask(connection, filters)
    if screen is None:
        write_json(rows)
        return
    question.show(screen, rows)
    screen.note(f"Python: {call_of(question.function, filters)}")
