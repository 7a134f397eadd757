"""The demo: the tutorial's story on made-up events, and the proof that rollups add up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from alembic.runtime.migration import MigrationContext
from sqlalchemy import NullPool, create_engine, delete, func, select, text, update

from citus_analytics.cli import commands
from citus_analytics.cli.commands import Server
from citus_analytics.cli.main import ExitError, add_command, add_database_url, add_json, positive
from citus_analytics.cli.output import (
    ProgressBar,
    Screen,
    duration,
    plural,
    timed,
    waiting,
    write_json,
)
from citus_analytics.copy import LoadResult
from citus_analytics.github import analytics
from citus_analytics.github.analytics import count_events
from citus_analytics.github.cli import QUESTIONS, call_of, loaded
from citus_analytics.github.load import load_events, load_users
from citus_analytics.github.migrate import upgrade
from citus_analytics.github.models import (
    GITHUB_LOGINS,
    GITHUB_ROLLUP_1MIN,
    Base,
    GithubEvent,
    github_events,
    github_users,
)
from citus_analytics.github.sample import Sample
from citus_analytics.migrations import database_url
from citus_analytics.rollups.declare import Rollup, specs_of
from citus_analytics.rollups.run import RollupRun, run_rollup
from citus_analytics.server import EmbeddedServer

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Connection, Engine

    from citus_analytics.cli.main import Commands
    from citus_analytics.rollups.ask import Freshness

_EVENTS: Final = 300_000
_UNTIL: Final = datetime(2026, 3, 1, 20, tzinfo=UTC)
_SINCE: Final = _UNTIL - timedelta(hours=8)
# Enough to reach every part of the past, and few beside what is there.
_LATE_EVENTS: Final = 500
_TABLES_NAMED: Final = 3

_BUG: Final = (
    "This is a bug of citus_analytics, unless somebody else wrote to the database meanwhile."
)

# Tables of an extension are nobody's data.
_USER_TABLES: Final = text("""
SELECT c.oid::regclass::text
FROM pg_catalog.pg_class AS c
WHERE c.relkind IN ('r', 'p', 'f')
  AND c.relnamespace::regnamespace::text !~ '^(pg_.*|information_schema)$'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1
""")

# Aggregates the raw events anew, in one pass with the rollup and so at one moment. Citus does it
# shard by shard, because both are grouped by the column that they are distributed by.
_COMPARE: Final = """
SELECT coalesce(sum(raw), 0)::bigint,
       coalesce(sum(rolled_up), 0)::bigint,
       count(*) FILTER (WHERE raw <> rolled_up)
FROM (
  SELECT user_id, event_type, repo_id, minute, sum(raw) AS raw, sum(rolled_up) AS rolled_up
  FROM (
    SELECT user_id, event_type, repo_id,
           date_bin('1 minute', created_at, timestamptz '1970-01-01 00:00:00+00') AS minute,
           1 AS raw, 0 AS rolled_up
    FROM github_events WHERE created_at IS NOT NULL
    UNION ALL
    SELECT user_id, event_type, repo_id, ingest_time, 0, total_events
    FROM {rollup}
  ) AS events
  GROUP BY user_id, event_type, repo_id, minute
) AS groups
"""

# Each of the analytics. Their first numbers are shown.
_ANALYTICS: Final[dict[str, Callable[..., Any]]] = {
    "count_events": analytics.count_events,
    "commits_per_hour": analytics.commits_per_hour,
    "top_repository_creators": partial(analytics.top_repository_creators, limit=5),
    "most_active_users": partial(analytics.most_active_users, limit=5),
    "events_by_type": analytics.events_by_type,
    "active_users": analytics.active_users,
    "trending_repositories": partial(analytics.trending_repositories, limit=5),
    "top_contributors": partial(analytics.top_contributors, repo_id=1, limit=5),
    "user_activity": partial(analytics.user_activity, user_id=1),
    "repository_activity": partial(analytics.repository_activity, repo_id=1),
    "heat_map": analytics.heat_map,
    "push_sizes": analytics.push_sizes,
}
_GOES: Final[dict[Freshness, int]] = {"raw": 2, "rolled_up": 8, "fresh": 8}


_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The raw events beside the rolled-up ones.

    Attributes:
        raw: The number of raw events.
        rolled_up: The sum of the rollup's groups.
        groups_that_differ: Groups (type, repository, user, minute) whose numbers are not the same.
    """

    raw: int
    rolled_up: int
    groups_that_differ: int

    @property
    def agree(self) -> bool:
        """Whether the rollup adds up, group by group."""
        return self.raw == self.rolled_up and self.groups_that_differ == 0

    def __str__(self) -> str:
        verdict = (
            "They agree" if self.agree else f"They differ, in {self.groups_that_differ:,} groups"
        )
        return f"{self.raw:,} events, {self.rolled_up:,} rolled up. {verdict}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A question, answered from the raw events and from rollups; lists by their first number.

    Attributes:
        question: The question.
        raw: The answer from the raw events.
        rolled_up: The answer as of the last run.
        fresh: The answer of the rollups with what is pending.
        seconds: How long each took.
        agree: Whether the whole fresh answer is that of the raw events.
    """

    question: str
    raw: int
    rolled_up: int
    fresh: int
    seconds: Mapping[str, float]
    agree: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step of the story.

    Attributes:
        step: What was done.
        call: The library call that does it; empty for SQL of the demo's own.
        seconds: How long it took, with its commit.
        result: What came of it.
    """

    step: str
    call: str
    seconds: float
    result: Any


def add_demo(commands: Commands) -> None:
    """Add `demo`."""
    parser = add_command(
        commands,
        "demo",
        demo,
        "see the whole story on made-up events",
        "Migrate a database, load made-up events, roll them up, ask the four questions, then add "
        "late events, change and delete some, and see that fresh rollups answer as the raw events "
        "do, and rolled-up ones after the next run. Runs on a temporary server of its own (extra: "
        "embedded) unless --database-url names another.",
    )
    add_database_url(
        parser, "an empty database to run on, which keeps the data; DATABASE_URL is ignored"
    )
    parser.add_argument(
        "--events",
        type=positive,
        default=_EVENTS,
        metavar="N",
        help=f"how many events to make up (default: {_EVENTS:,})",
    )
    add_json(parser)


def demo(arguments: Namespace) -> None:
    """Tell the whole story, on a temporary server or on an empty database.

    Raises:
        ExitError: The database is not empty, or raw and rolled-up totals disagree after a run.
    """
    # First of all, because the package that it needs may be missing.
    screen = None if arguments.json else Screen()
    sample = Sample(events=arguments.events, since=_SINCE, until=_UNTIL)
    late = Sample(
        events=min(_LATE_EVENTS, -(-arguments.events // 10)),
        since=_SINCE,
        until=_UNTIL,
        first_event_id=arguments.events + 1,
        seed=1,
    )
    with _database(arguments.database_url) as engine:
        with engine.connect() as connection:
            _require_empty(connection)
            server = Server.of(connection)
        story = _Story(engine, screen)
        place = "given by its URL" if arguments.database_url else "in a temporary directory"
        story.say(f"Server: {server}; {place}.")

        story.heading("Create the tables")
        story.step("Migrations", "migrate.upgrade(url)", partial(_migrate, server))

        story.heading("Load made-up users and events")
        load = partial(_load, load_users, "users", sample.users, sample.users_csv)
        story.step("Users", "load_users(session, source)", load)
        load = partial(_load, load_events, "events", sample.events, sample.events_csv)
        story.step("Events", "load_events(session, source)", load)

        story.heading("Roll up")
        of_users = partial(_roll_up, GITHUB_LOGINS)
        story.step("Rollups of users", "run_rollup(session, GITHUB_LOGINS)", of_users)
        of_events = partial(_roll_up, GITHUB_ROLLUP_1MIN)
        story.step("Rollups of events", "run_rollup(session, GITHUB_ROLLUP_1MIN)", of_events)
        story.step("Raw against rolled up", "", partial(_require_agreement, "github_rollup_1min"))
        # As autovacuum does within a minute: the logs are empty, and as long as all of them was.
        with engine.connect() as connection, waiting("Vacuuming"):
            connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.exec_driver_sql("VACUUM (ANALYZE)")

        story.heading("Ask")
        story.step("Events", call_of(count_events, {}), count_events)
        for name, question in QUESTIONS.items():
            filters = {} if name == "commits-per-hour" else {"limit": 5}
            call = call_of(question.function, filters)
            story.step(name, call, partial(question.ask, filters=filters))

        story.heading("Change the past: late events, other types, deletions")
        load = partial(_load, load_events, "events", late.events, late.events_csv)
        story.step("Late events", "load_events(session, source)", load)
        some = max(late.events // 5, 1)
        first, second = GithubEvent.event_id <= some, GithubEvent.event_id > late.events - some
        change = update(GithubEvent).where(first).values(event_type="WatchEvent")
        story.step("Events with another type", "", lambda c: c.execute(change).rowcount)
        remove = delete(GithubEvent).where(second, GithubEvent.event_id <= late.events)
        story.step("Events deleted", "", lambda c: c.execute(remove).rowcount)

        story.heading("Ask before the next run: as of the last one, and fresh")
        call = "count_events(session, freshness='raw'), ..."
        story.step("Answers", call, _ask_again)
        story.step("Raw against rolled up", "", partial(_compare, "github_rollup_1min"))
        story.step("Raw against fresh", "", partial(_require_agreement, "github_rollup_1min_fresh"))

        story.heading("Roll up again: only what has changed")
        story.step("Rollups of events", "run_rollup(session, GITHUB_ROLLUP_1MIN)", of_events)
        totals = story.step(
            "Raw against rolled up", "", partial(_require_agreement, "github_rollup_1min")
        )

    if screen is None:
        write_json({"server": server, "steps": story.steps, "totals": totals, "agree": True})
        return
    screen.heading("Fresh rollups equal the raw events at any moment, rolled-up ones after a run.")
    if arguments.database_url:
        screen.note("The data stay in the database; `citus-analytics query --help` asks more.")


class _Story:
    """Steps on a database, shown as they are taken unless there is no screen.

    Attributes:
        steps: The steps so far.
    """

    def __init__(self, engine: Engine, screen: Screen | None) -> None:
        self.steps: list[Step] = []
        self._engine = engine
        self._screen = screen

    def heading(self, text: str) -> None:
        if self._screen is not None:
            self._screen.heading(text)

    def say(self, text: str) -> None:
        if self._screen is not None:
            self._screen.say(text)

    def step(self, name: str, call: str, work: Callable[[Connection], _Result]) -> _Result:
        """Take a step in a transaction of its own; return what came of it."""
        with self._engine.begin() as connection, timed() as watch:
            result = work(connection)
        self.steps.append(Step(step=name, call=call, seconds=watch.seconds, result=result))
        took = duration(watch.seconds)
        match result:
            case [Answer(), *_] as answers:
                self.say(f"{name}, asked again and again:")
                if self._screen is not None:
                    _show_answers(self._screen, answers)
            case list(rows):
                question = QUESTIONS[name]
                self.say(f"{question.title} ({took}):")
                if self._screen is not None:
                    question.show(self._screen, rows)
            case LoadResult() as load:
                self.say(f"{name}: {loaded(load, watch.seconds)}")
            case RollupRun() as run:
                self.say(f"{name}: {commands.rolled_up(run.changes, watch.seconds)}")
            case int(number):
                self.say(f"{name}: {number:,} ({took}).")
            case other:
                self.say(f"{name}: {other} ({took}).")
        if call and self._screen is not None:
            self._screen.note(f"  Python: {call}")
        return result


def _migrate(server: Server, connection: Connection) -> str:
    # The server line has said whether there is Citus: a migration need not warn that there is not.
    upgrade(connection, citus="auto" if server.citus else "skip")
    revision = MigrationContext.configure(connection).get_current_revision()
    return f"the tables are at revision {revision}"


def _load(
    function: Callable[..., LoadResult],
    what: str,
    rows: int,
    source: Callable[[], Iterator[bytes]],
    connection: Connection,
) -> LoadResult:
    with ProgressBar() as bar:
        show = partial(bar.show, f"Loading {what}", total_rows=rows)
        return function(connection, source(), progress=show)


def _roll_up(rollup: Rollup, connection: Connection) -> RollupRun:
    with waiting("Rolling up"):
        return run_rollup(connection, rollup)


def _compare(rollup: str, connection: Connection) -> Totals:
    with waiting("Comparing"):
        statement = text(_COMPARE.format(rollup=rollup))
        raw, rolled_up, groups = connection.execute(statement).one()
    return Totals(raw=raw, rolled_up=rolled_up, groups_that_differ=groups)


def _require_agreement(rollup: str, connection: Connection) -> Totals:
    totals = _compare(rollup, connection)
    if not totals.agree:
        raise ExitError(
            f"{rollup} does not add up: {totals.raw:,} events, but {totals.rolled_up:,} rolled up, "
            f"and {totals.groups_that_differ:,} groups differ. {_BUG}"
        )
    return totals


def _ask_again(connection: Connection) -> list[Answer]:
    answers = []
    for name, ask in _ANALYTICS.items():
        found: dict[str, Any] = {}
        seconds: dict[str, float] = {}
        for freshness, goes in _GOES.items():
            # The first goes make the plan, and read the pages.
            for _ in range(goes):
                with timed() as watch:
                    found[freshness] = ask(connection, freshness=freshness)
                seconds[freshness] = watch.seconds
        agree = found["raw"] == found["fresh"]
        numbers = {freshness: _first_number(each) for freshness, each in found.items()}
        answers.append(Answer(question=name, **numbers, seconds=seconds, agree=agree))
    wrong = [answer.question for answer in answers if not answer.agree]
    if wrong:
        raise ExitError(f"fresh answers are not those of raw events: {', '.join(wrong)}. {_BUG}")
    return answers


def _first_number(answer: Any) -> int:
    if isinstance(answer, list):
        return int(astuple(answer[0])[-1] or 0) if answer else 0
    return answer.pushes if isinstance(answer, analytics.PushSizes) else int(answer)


def _show_answers(screen: Screen, answers: Sequence[Answer]) -> None:
    def cell(answer: Answer, name: str) -> str:
        return f"{getattr(answer, name):,}  {duration(answer.seconds[name]):>7}"

    names = {"raw": "raw events", "rolled_up": "as of the last run", "fresh": "fresh"}
    screen.table(
        ("", *names.values()),
        [(answer.question, *(cell(answer, name) for name in names)) for answer in answers],
        numeric=tuple(names.values()),
    )


@contextmanager
def _database(address: str | None) -> Iterator[Engine]:
    if address:
        yield create_engine(database_url(address), poolclass=NullPool)
        return
    server = EmbeddedServer()
    try:
        with waiting("Starting PostgreSQL"):
            server.start()
        yield create_engine(server.url, poolclass=NullPool)
    finally:
        server.stop()


def _require_empty(connection: Connection) -> None:
    """Refuse a database that has tables, unless they are the built-in ones without rows."""
    tables = list(connection.execute(_USER_TABLES).scalars())
    machinery = {name for spec in specs_of(Base.metadata) for name in spec.machinery}
    ours = {*Base.metadata.tables, *machinery, "alembic_version"}
    rows = {
        table.name: connection.scalar(select(func.count()).select_from(table)) or 0
        for table in (github_events, github_users)
        if table.name in tables
    }
    migrated = "alembic_version" in tables and ours.issuperset(tables)
    if not tables or (migrated and not any(rows.values())):
        return
    named = ", ".join(
        f"{name} ({plural(rows[name], 'row')})" if rows.get(name) else name
        for name in sorted(tables, key=lambda name: -rows.get(name, 0))[:_TABLES_NAMED]
    )
    more = f" and {len(tables) - _TABLES_NAMED} more" if len(tables) > _TABLES_NAMED else ""
    raise ExitError(
        f"the database {connection.engine.url.database} is not empty: it has the tables {named}"
        f"{more}. The demo has left it as it is. Give it an empty database (CREATE DATABASE demo), "
        "or omit --database-url for a temporary server."
    )
