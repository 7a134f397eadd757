"""Always: several connections write, runs happen in between, and at rest the rollup adds up."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text

from citus_analytics.github.models import GITHUB_ROLLUP_1MIN
from citus_analytics.rollups.run import run_rollup
from tests.rollups import NOON, add, assert_adds_up, event
from tests.servers import ON_EVERY_SERVER

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

pytestmark = ON_EVERY_SERVER

WRITERS = 3
# Each writer changes only the rows of its own users, so that none waits for another's locks.
USERS_OF_A_WRITER = 3
EVENT_TYPES = ("PushEvent", "ForkEvent", None)


@dataclass(frozen=True)
class Insert:
    """Add events, given as (user, age in seconds, type), by INSERT or by COPY."""

    events: tuple[tuple[int, int, str | None], ...]
    copy: bool


@dataclass(frozen=True)
class Update:
    """Move the events of a user to another time, and give them another type."""

    user: int
    age: int
    event_type: str | None


@dataclass(frozen=True)
class Delete:
    """Delete the events of a user up to an age in seconds."""

    user: int
    age: int


@dataclass(frozen=True)
class End:
    """End the writer's transaction."""

    commit: bool


@dataclass(frozen=True)
class Run:
    """Run the rollup in a transaction of its own, and keep it or not."""

    commit: bool


Write: TypeAlias = Insert | Update | Delete | End
Step: TypeAlias = tuple[int, Write] | Run

users = st.integers(0, USERS_OF_A_WRITER - 1)
# Within a few minutes of each other, and up to a month old.
ages = st.integers(0, 300) | st.integers(0, 31 * 24 * 3600)
types = st.sampled_from(EVENT_TYPES)
writes: SearchStrategy[Write] = st.one_of(
    st.builds(
        Insert,
        events=st.lists(st.tuples(users, ages, types), min_size=1, max_size=8).map(tuple),
        copy=st.booleans(),
    ),
    st.builds(Update, user=users, age=ages, event_type=types),
    st.builds(Delete, user=users, age=ages),
    st.builds(End, commit=st.booleans()),
)
steps: SearchStrategy[list[Step]] = st.lists(
    st.one_of(
        st.tuples(st.integers(0, WRITERS - 1), writes),
        st.builds(Run, commit=st.booleans()),
    ),
    max_size=25,
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=steps)
def test_the_rollup_adds_up_at_rest(engine: Engine, steps: list[Step]) -> None:
    with ExitStack() as stack:
        runner = stack.enter_context(engine.connect())
        runner.execute(text("TRUNCATE github_events"))
        runner.commit()
        writers = [stack.enter_context(engine.connect()) for _ in range(WRITERS)]
        for step in steps:
            if isinstance(step, Run):
                run(runner, commit=step.commit)
            else:
                write(writers[step[0]], step[0], step[1])
        for writer in writers:
            writer.commit()
        run(runner, commit=True)
        assert_adds_up(runner)
        logged = runner.execute(text("SELECT count(*) FROM github_events_log"))
        assert logged.scalar_one() == 0


def run(connection: Connection, *, commit: bool) -> None:
    # A run that waited for an open writer would wait for ever here.
    connection.execute(text("SET LOCAL lock_timeout = '10s'"))
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    if commit:
        connection.commit()
    else:
        connection.rollback()


def write(connection: Connection, writer: int, step: Write) -> None:
    first_user = writer * USERS_OF_A_WRITER
    match step:
        case Insert(events, copy):
            rows = [
                event(first_user + user, at=time_of(age), event_type=event_type)
                for user, age, event_type in events
            ]
            if copy:
                copy_in(connection, rows)
            else:
                add(connection, *rows)
        case Update(user, age, event_type):
            connection.execute(
                text(
                    "UPDATE github_events SET event_type = :type, created_at = :at "
                    "WHERE user_id = :user"
                ),
                {"type": event_type, "at": time_of(age), "user": first_user + user},
            )
        case Delete(user, age):
            connection.execute(
                text("DELETE FROM github_events WHERE user_id = :user AND created_at >= :at"),
                {"user": first_user + user, "at": time_of(age)},
            )
        case End(commit):
            (connection.commit if commit else connection.rollback)()


def time_of(age: int) -> datetime:
    return NOON - timedelta(seconds=age)


def copy_in(connection: Connection, rows: list[dict[str, object]]) -> None:
    connection.execute(text("SELECT 1"))  # The transaction begins as any other.
    driver = connection.connection.driver_connection
    assert driver is not None
    columns = tuple(rows[0])
    with driver.cursor().copy(f"COPY github_events ({', '.join(columns)}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row([row[column] for column in columns])
