"""What one run of the rollup costs."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, TypeAlias

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
from citus_analytics.github.models import GITHUB_ROLLUP_1MIN
from citus_analytics.github.sample import Sample
from tests import tutorial

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

BATCH = 100
REPETITIONS = 11
GROWTH = 4

_Costs: TypeAlias = dict[str, list[float]]


def measure(engine: Engine, rows: int) -> list[Figure]:
    """Compare a run of the rollup with a run of the tutorial's own function.

    Measured: `SELECT rollup_http_request()` with its commit, after 100 events of one new minute
    and after 100 late events of an old minute, with `rows` events stored and with four times as
    many. The other arm is the tutorial's function, verbatim, with tables of its own, on the same
    events after a new minute. (After late events it would do the same work, and lose them.)

    Promised: at least 60 times cheaper, and as cheap with four times as many events.

    The index on `payload`, which no arm reads, is dropped to save time.
    """
    _prepare(engine)
    figures, costs = [], []
    for stored in (rows, GROWTH * rows):
        _fill(engine, stored)
        ours, tutorials = _costs(engine, stored)
        costs.append(ours)
        for change, times in ours.items():
            say(
                f"rollup, {stored:,} events, {change}: {milliseconds(times)}, "
                f"the tutorial's {milliseconds(tutorials)}"
            )
            name = f"{change}, {stored:,} events: tutorial's function / run"
            figures.append(Figure(name, median_ratio(tutorials, times), "at least", 60))
    small, large = costs
    for change in small:
        name = f"{change}: run at {GROWTH * rows:,} events / at {rows:,}"
        figures.append(Figure(name, median_ratio(large[change], small[change]), "at most", 1.25))
    return figures


def _prepare(engine: Engine) -> None:
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


def _fill(engine: Engine, stored: int) -> None:
    """Add events until so many are stored, and bring everything up to date."""
    with engine.begin() as connection:
        present = connection.execute(text("SELECT count(*) FROM github_events")).scalar_one()
        load_events(connection, sample(stored - present, after=present).events_csv())
        run_rollup(connection, GITHUB_ROLLUP_1MIN)
    execute(engine, "VACUUM ANALYZE github_events, github_rollup_1min, github_rollup_1min_changes")


def _costs(engine: Engine, stored: int) -> tuple[_Costs, list[float]]:
    """Return the times of a run after each change, and those of the tutorial's function."""
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql(f"SET search_path TO {OTHER}, public")
        turns = _Turns(connection, stored)
        arms = (turns.new_minute, turns.late_batch, turns.tutorials)
        alternate(arms, 2)  # Plans are made, and pages read.
        new, late, tutorials = alternate(arms, REPETITIONS)
        turns.check()
    return {"new minute": new, "late batch": late}, tutorials


class _Turns:
    """The arms; each adds the events of its turn, and leaves no change to the next one."""

    def __init__(self, connection: Connection, stored: int) -> None:
        self._connection = connection
        self._stored = stored
        self._numbers = count()
        self._expected = self._total(f"{OTHER}.github_rollup_1min")

    def new_minute(self) -> float:
        """Time a run after a new minute."""
        self._add(moment(self._stored))
        return self._run()

    def late_batch(self) -> float:
        """Time a run after late events."""
        self._add(SINCE)
        return self._run()

    def tutorials(self) -> float:
        """Time the tutorial's function after a new minute."""
        minute = self._add(moment(self._stored))
        # Its window begins after the minute that it takes for the last one.
        self._connection.execute(
            text(f"UPDATE {OTHER}.latest_rollup SET minute = :minute"),
            {"minute": minute - timedelta(minutes=1)},
        )
        time = self._call(OTHER)
        self._expected += BATCH
        self._run()
        return time

    def check(self) -> None:
        """Fail if an arm was quick because it did not do its work."""
        events = self._connection.execute(text("SELECT count(*) FROM github_events")).scalar_one()
        assert self._total("public.github_rollup_1min") == events
        assert self._total(f"{OTHER}.github_rollup_1min") == self._expected

    def _add(self, start: datetime) -> datetime:
        """Add a batch in a minute that no other turn has; return that minute."""
        number = next(self._numbers)
        minute = start + timedelta(minutes=number)
        first = self._stored + number * BATCH + 1
        batch = Sample(
            events=BATCH,
            since=minute,
            until=minute + timedelta(minutes=1),
            first_event_id=first,
            seed=first,
        )
        load_events(self._connection, batch.events_csv())
        return minute

    def _run(self) -> float:
        return self._call("public")

    def _call(self, schema: str) -> float:
        statement = f"SELECT {schema}.rollup_http_request()"
        return seconds(lambda: self._connection.exec_driver_sql(statement))

    def _total(self, table: str) -> int:
        total = self._connection.execute(text(f"SELECT sum(total_events) FROM {table}"))
        return int(total.scalar_one() or 0)
