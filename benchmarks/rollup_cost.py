"""What runs of rollups and fresh reads cost."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Final, TypeAlias

from sqlalchemy import text

from benchmarks.harness import (
    OTHER,
    SINCE,
    Figure,
    alternate,
    distribute_other,
    execute,
    median_ratio,
    milliseconds,
    moment,
    sample,
    say,
    seconds,
)
from citus_analytics import run_rollup
from citus_analytics.github.load import load_events
from citus_analytics.github.models import GITHUB_ROLLUP_1MIN, Base
from citus_analytics.github.sample import Sample
from citus_analytics.rollups.declare import rollups_of
from tests import tutorial

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

BATCH = 100
REPETITIONS = 11
GROWTH = 4
# What is promised of each figure: how many times as long the other arm takes at least.
PROMISES: Final = {
    "new minute": 100,
    "late event": 300,
    "one more row in a large group": 300,
    "empty run": 500,
    "fresh count": 50,
}
_GROWING = ("new minute", "late event", "fresh count")
_LARGE_GROUP = SINCE - timedelta(days=1)

_Times: TypeAlias = dict[str, list[float]]


def measure(engine: Engine, rows: int) -> list[Figure]:
    """Compare runs of all built-in rollups with the tutorial's own function, which keeps one.

    Measured, each with its commit: `SELECT rollup_http_request()` after 100 events of one new
    minute, after one late event, after one more event in a group of a fifth of all events, and
    after nothing; and a count of all events from a fresh view, with 100 events pending. The other
    arm is the tutorial's function, verbatim, with tables of its own, after a new minute of the same
    events (after late ones it would do the same work, and lose them); for the fresh count, it is
    the count of the raw events.

    Promised: so many times cheaper as `PROMISES` says, and as cheap with four times as many events.

    The index on `payload`, which no arm reads, is dropped to save time.
    """
    _prepare(engine, rows)
    times = []
    for stored in (rows, GROWTH * rows):
        _fill(engine, stored)
        times.append(_times(engine, stored))
        for name, found in times[-1].items():
            say(f"{stored:,} events, {name}: {milliseconds(found)}")
    small, large = times
    figures = []
    for name, promised in PROMISES.items():
        other = "raw count" if name == "fresh count" else "tutorial's function"
        ratio = median_ratio(small[other], small[name])
        figures.append(Figure(f"{name}: {other} / ours", ratio, "at least", promised))
    for name in _GROWING:
        ratio = median_ratio(large[name], small[name])
        title = f"{name}: at {GROWTH * rows:,} events / at {rows:,}"
        figures.append(Figure(title, ratio, "at most", 1.5))
    return figures


def _prepare(engine: Engine, rows: int) -> None:
    execute(
        engine,
        "DROP INDEX payload_index",
        f"CREATE TABLE {OTHER}.github_rollup_1min (LIKE github_rollup_1min)",
        f"CREATE TABLE {OTHER}.latest_rollup (LIKE latest_rollup INCLUDING ALL)",
    )
    distribute_other(engine, "github_rollup_1min")
    # The names in the function's body find its own tables, and the events that both share.
    path = f"SET search_path TO {OTHER}, public"
    execute(engine, path, tutorial.INITIALIZE, tutorial.FUNCTION)
    group = text(
        "INSERT INTO github_events (event_id, event_type, repo_id, payload, user_id, created_at) "
        "SELECT -number, 'PushEvent', 1, '{}', 1, :moment FROM generate_series(1, :size) AS number"
    )
    with engine.begin() as connection:
        connection.execute(group, {"moment": _LARGE_GROUP, "size": max(rows // 5, 1)})


def _fill(engine: Engine, stored: int) -> None:
    """Add events until so many are stored, and bring everything up to date."""
    with engine.begin() as connection:
        present = connection.execute(text("SELECT count(*) FROM github_events")).scalar_one()
        load_events(connection, sample(stored - present, after=present).events_csv())
        run_rollup(connection, GITHUB_ROLLUP_1MIN)
    targets = (table.name for each in rollups_of(Base.metadata) for table in each.targets.values())
    execute(engine, f"VACUUM ANALYZE github_events, github_events_log, {', '.join(targets)}")


def _times(engine: Engine, stored: int) -> _Times:
    """Return the times of each arm."""
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql(f"SET search_path TO {OTHER}, public")
        turns = _Turns(connection, stored)
        arms = {
            "new minute": turns.new_minute,
            "late event": turns.late_event,
            "one more row in a large group": turns.large_group,
            "empty run": turns.run,
            "tutorial's function": turns.tutorials,
            "fresh count": turns.fresh_count,
            "raw count": turns.raw_count,
        }
        alternate([*arms.values()], 2)  # Plans are made, and pages read.
        times = dict(zip(arms, alternate([*arms.values()], REPETITIONS), strict=True))
        turns.check()
    return times


class _Turns:
    """The arms; each adds the events of its turn, and leaves no change to the next one."""

    def __init__(self, connection: Connection, stored: int) -> None:
        self._connection = connection
        self._stored = stored
        self._numbers = count()
        self._expected = self._number(f"SELECT sum(total_events) FROM {OTHER}.github_rollup_1min")

    def run(self, schema: str = "public") -> float:
        """Time a run; of ours, unless another schema is named."""
        statement = f"SELECT {schema}.rollup_http_request()"
        return seconds(lambda: self._connection.exec_driver_sql(statement))

    def new_minute(self) -> float:
        """Time a run after a new minute."""
        self._add(moment(self._stored))
        return self.run()

    def late_event(self) -> float:
        """Time a run after a late event."""
        self._add(SINCE, events=1)
        return self.run()

    def large_group(self) -> float:
        """Time a run after one more event in a large group."""
        statement = text(
            "INSERT INTO github_events (event_id, event_type, repo_id, payload, user_id, "
            "created_at) VALUES (0, 'PushEvent', 1, '{}', 1, :moment)"
        )
        self._connection.execute(statement, {"moment": _LARGE_GROUP})
        return self.run()

    def tutorials(self) -> float:
        """Time the tutorial's function after a new minute."""
        minute = self._add(moment(self._stored))
        # Its window begins after the minute that it takes for the last one.
        self._connection.execute(
            text(f"UPDATE {OTHER}.latest_rollup SET minute = :minute"),
            {"minute": minute - timedelta(minutes=1)},
        )
        time = self.run(OTHER)
        self._expected += BATCH
        self.run()
        return time

    def fresh_count(self) -> float:
        """Time a count of all events from a fresh view."""
        self._add(moment(self._stored))
        time = seconds(lambda: self._number(self._FRESH))
        self.run()
        return time

    def raw_count(self) -> float:
        """Time a count of the raw events."""
        return seconds(lambda: self._number("SELECT count(*) FROM github_events"))

    def check(self) -> None:
        """Fail if an arm was quick because it did not do its work."""
        self._add(SINCE)
        events = self._number("SELECT count(*) FROM github_events")
        assert self._number(self._FRESH) == events
        self.run()
        assert self._number("SELECT sum(total_events) FROM public.github_rollup_1min") == events
        other = f"SELECT sum(total_events) FROM {OTHER}.github_rollup_1min"
        assert self._number(other) == self._expected

    _FRESH: Final = "SELECT sum(events) FROM github_events_by_type_1_day_fresh"

    def _add(self, start: datetime, *, events: int = BATCH) -> datetime:
        """Add a batch in a minute that no other turn has; return that minute."""
        number = next(self._numbers)
        minute = start + timedelta(minutes=number)
        first = self._stored + number * BATCH + 1
        batch = Sample(
            events=events,
            since=minute,
            until=minute + timedelta(minutes=1),
            first_event_id=first,
            seed=first,
        )
        load_events(self._connection, batch.events_csv())
        return minute

    def _number(self, statement: str) -> int:
        return int(self._connection.execute(text(statement)).scalar_one() or 0)
