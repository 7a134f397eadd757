"""Two or three sessions, and every order of their steps: the invariants hold after each step.

A step that would wait for another session is sent from a thread of its own; the others go on, and
an order in which a waiting session would have to take its next step does not exist.
"""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pytest
from sqlalchemy import Connection, Engine, NullPool, create_engine
from sqlalchemy.exc import DBAPIError

from tests.rollup_lab import (
    CONFLICTS,
    TABLES,
    assert_at_rest,
    assert_fresh,
    assert_verified,
    build,
    run,
    run_sql,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import DatabaseServer

COLUMNS: Final = "id, user_id, kind, ms, temp, at"
INSERT: Final = f"INSERT INTO events ({COLUMNS}) VALUES (100, 1, 'a', 0, 9, '2026-03-28 23:59:10Z')"
STEPS: Final = {
    "insert": INSERT,
    "insert again": INSERT.replace("100", "101"),
    "upsert": f"{INSERT} ON CONFLICT (user_id, id) DO UPDATE SET ms = -1, kind = NULL",
    # The smallest and the largest of their groups.
    "delete": "DELETE FROM events WHERE id = 1",
    "delete all": "DELETE FROM events",
    "update": "UPDATE events SET at = at + interval '1 hour', ms = ms + 10 WHERE id IN (1, 2)",
    "rekey": "UPDATE events SET user_id = 3 - user_id, kind = 'b' WHERE id = 2",
    "truncate": "TRUNCATE events",
    "run": "SELECT events_run()",
    "run?": "SELECT events_run(false)",
    "verify": "verify",
    "repair": "SELECT events_reconcile(t, NULL, NULL, true) FROM unnest(ARRAY["
    f"{', '.join(map(repr, TABLES))}]) AS t",
    "expire": "SELECT events_expire('2026-03-28 22:30Z', interval '1 day')",
    "savepoint": "SAVEPOINT one",
    "rollback to": "ROLLBACK TO one",
    "prepare": "PREPARE TRANSACTION 'interleaved'",
    "commit prepared": "COMMIT PREPARED 'interleaved'",
    "commit": "COMMIT",
    "rollback": "ROLLBACK",
    "begin": "BEGIN",
    "begin repeatable": "BEGIN ISOLATION LEVEL REPEATABLE READ",
    # The first look takes the snapshot.
    "begin old": "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM events LIMIT 1",
    "batch": "SELECT events_run_batch(0)",
    "begin serializable": "BEGIN ISOLATION LEVEL SERIALIZABLE",
}

# Each program begins a transaction, and ends it.
PROGRAMS: Final = {
    "two writers and a run": (
        ("begin", "insert", "update", "commit"),
        ("begin", "delete", "commit"),
        ("begin", "run", "commit"),
    ),
    "truncate": (
        ("begin", "insert", "commit"),
        ("begin", "truncate", "commit"),
        ("begin", "run", "commit"),
    ),
    "truncate, rolled back": (
        ("begin", "truncate", "insert", "rollback"),
        ("begin", "update", "commit"),
        ("begin", "run", "commit"),
    ),
    "truncate of what an older snapshot sees": (
        ("begin old", "insert", "update", "commit"),
        ("begin", "truncate", "insert again", "commit"),
        ("begin", "run", "commit"),
    ),
    "two runs": (
        ("begin", "rekey", "run", "update", "commit"),
        ("begin", "run?", "insert", "run?", "commit"),
        ("begin", "delete", "rollback"),
    ),
    "runs in old snapshots": (
        ("begin old", "insert", "run", "commit"),
        ("begin", "upsert", "run", "commit"),
        ("begin", "delete", "commit"),
    ),
    "serializable": (
        ("begin serializable", "update", "run", "commit"),
        ("begin serializable", "delete", "commit"),
        ("begin", "run", "commit"),
    ),
    "verify": (
        ("begin", "delete", "insert", "commit"),
        ("begin", "verify", "verify", "commit"),
        ("begin", "run", "commit"),
    ),
    "repair": (
        ("begin", "rekey", "delete", "commit"),
        ("begin", "repair", "commit"),
        ("begin", "run", "commit"),
    ),
    "batches": (
        ("begin", "rekey", "delete", "commit"),
        ("begin", "batch", "batch", "commit"),
        ("begin", "insert", "run", "commit"),
    ),
    "savepoints": (
        ("begin", "delete", "savepoint", "run", "rollback to", "commit"),
        ("begin", "insert", "run", "commit"),
    ),
    "two phases": (
        ("begin", "delete", "prepare", "commit prepared"),
        ("begin", "insert", "run", "commit"),
        ("begin", "truncate", "commit"),
    ),
    "expiry": (
        ("begin", "update", "delete", "commit"),
        ("begin", "expire", "commit"),
        ("begin", "run", "commit"),
    ),
    "upserts": (
        ("begin", "upsert", "commit"),
        ("begin", "insert", "delete all", "commit"),
        ("begin", "run", "commit"),
    ),
}


def orders(lengths: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield every order of the steps of sessions, as the numbers of the sessions."""
    if not any(lengths):
        yield ()
    for session, left in enumerate(lengths):
        if left:
            rest = tuple(n - (i == session) for i, n in enumerate(lengths))
            yield from ((session, *order) for order in orders(rest))


@dataclass
class Session:
    """A session that takes one step at a time, in a thread of its own if that waits."""

    connection: Connection
    program: tuple[str, ...]
    position: int = 0
    failed: bool = False
    error: BaseException | None = None
    thread: threading.Thread | None = None
    pid: int = field(init=False)

    def __post_init__(self) -> None:
        self.pid = run_sql(self.connection, "SELECT pg_backend_pid()").scalar_one()

    def step(self) -> None:
        """Start the next step."""
        name = self.program[self.position]
        self.position += 1
        if self.failed:
            return
        self.thread = threading.Thread(target=self._do, args=(name,))
        self.thread.start()

    def _do(self, name: str) -> None:
        try:
            if name == "verify":
                assert_verified(self.connection)
            else:
                run_sql(self.connection, STEPS[name])
        except DBAPIError as error:
            # The whole transaction is over; what is left of the program does nothing.
            self.failed = True
            if getattr(error.orig, "sqlstate", "") in CONFLICTS | {"55000", "P0001"}:
                run_sql(self.connection, "ROLLBACK")
            else:
                self.error = error
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    def waits(self, observer: Connection) -> bool:
        """Whether its step has not come to an end because of another session."""
        while self.thread is not None and self.thread.is_alive():
            self.thread.join(0.002)
            blocked = "SELECT cardinality(pg_blocking_pids(:pid)) > 0"
            if self.thread.is_alive() and run_sql(observer, blocked, pid=self.pid).scalar_one():
                return True
        if self.error is not None:
            raise self.error
        return False


class ImpossibleError(Exception):
    """A session would have to act while it waits."""


class Explorer:
    """A database in which orders are tried, one after the other."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        self.observer = autocommit.connect()
        self.connections = [autocommit.connect() for _ in range(3)]
        self.looker = engine.connect().execution_options(isolation_level="REPEATABLE READ")

    def reset(self) -> None:
        """Put the same few rows in, some of them pending."""
        with self.engine.begin() as connection:
            run_sql(connection, "TRUNCATE events")
            run(connection)
            run_sql(connection, "UPDATE events_rollups SET horizon = NULL")
            run_sql(connection, f"TRUNCATE {', '.join(TABLES)}")
            run_sql(
                connection,
                f"INSERT INTO events ({COLUMNS}) VALUES "
                "(1, 1, 'a', 1, 9.5, '2026-03-28 23:59:10Z'), (2, 1, 'a', 2, 1.5, "
                "'2026-03-28 23:59:40Z'), (3, 2, 'b', NULL, 'NaN', '2026-03-28 22:00:00Z'), "
                "(4, 2, 'x', 5, NULL, NULL)",
            )
            run(connection)
            run_sql(
                connection,
                f"INSERT INTO events ({COLUMNS}) VALUES "
                "(5, 2, NULL, 7, 2.5, '2026-03-28 22:20:00Z')",
            )

    def explore(self, programs: tuple[tuple[str, ...], ...], order: tuple[int, ...]) -> None:
        """Let sessions take their steps in an order; look after each."""
        self.reset()
        expires = any("expire" in program for program in programs)
        sessions = [
            Session(connection, program)
            for connection, program in zip(self.connections, programs, strict=False)
        ]
        try:
            for turn in order:
                if sessions[turn].waits(self.observer):
                    raise ImpossibleError
                sessions[turn].step()
                waiting = [session.waits(self.observer) for session in sessions]
                if not expires and not any(waiting):
                    self.look()
        finally:
            # Whoever waits gets on when the others have ended.
            for _ in sessions:
                # Other tests of this server have prepared transactions of their own.
                if run_sql(
                    self.observer,
                    "SELECT count(*) FROM pg_prepared_xacts WHERE gid = 'interleaved'",
                ).scalar_one():
                    run_sql(self.observer, "ROLLBACK PREPARED 'interleaved'")
                for session in sessions:
                    if not session.waits(self.observer):
                        run_sql(session.connection, "ROLLBACK")
        with self.engine.begin() as connection:
            targets = TABLES
            if expires:
                targets = tuple(table for table in TABLES if not table.startswith("all_events"))
            assert_verified(connection, targets)
            run(connection)
            if expires:
                assert_verified(connection, targets)
                assert run_sql(connection, "SELECT count(*) FROM events_log").scalar_one() == 0
            else:
                assert_at_rest(connection)

    def look(self) -> None:
        """Compare the fresh views with the raw rows, unless somebody is about to truncate."""
        run_sql(self.looker, "SET LOCAL lock_timeout = '1ms'")
        try:
            assert_fresh(self.looker)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", "") not in CONFLICTS:
                raise
        finally:
            self.looker.rollback()


@pytest.fixture
def explorer(postgres: DatabaseServer) -> Iterator[Explorer]:
    with postgres.database("empty") as url:
        engine = create_engine(url, poolclass=NullPool)
        build(engine, citus=False)
        explorer = Explorer(engine)
        yield explorer
        for connection in (explorer.observer, explorer.looker, *explorer.connections):
            connection.close()


def explore(explorer: Explorer, name: str, limit: int) -> int:
    """Try orders, all or a sample of so many; return how many there were."""
    programs = PROGRAMS[name]
    every = list(orders(tuple(len(program) for program in programs)))
    chosen = every if len(every) <= limit else random.Random(name).sample(every, limit)
    tried = 0
    for order in chosen:
        try:
            explorer.explore(programs, order)
            tried += 1
        except ImpossibleError:
            continue
        except BaseException as error:
            positions = [0] * len(programs)
            steps = []
            for turn in order:
                steps.append(f"{turn}: {programs[turn][positions[turn]]}")
                positions[turn] += 1
            error.add_note(f"in the order {', '.join(steps)}")
            raise
    return tried


def test_some_orders(explorer: Explorer) -> None:
    for name in PROGRAMS:
        explore(explorer, name, 2)


@pytest.mark.endurance
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_order(explorer: Explorer, name: str) -> None:
    assert explore(explorer, name, 60) > 5
