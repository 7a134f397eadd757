"""What a run publishes by NOTIFY: what it moved, when it commits, and only then."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from citus_analytics import GITHUB_ROLLUP_1MIN, ArgumentError, run_rollup
from citus_analytics.rollups.run import CHANNEL, RunNotice, catch_up, rollup_status
from tests.rollups import add, event, rolled_up_groups
from tests.servers import ON_POSTGRESQL_ONLY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL

# PostgreSQL hands a notification to a listener that is idle within milliseconds, if it gets any.
SOON = 30.0
NOTHING_COMES = 0.2


def address(url: URL) -> dict[str, Any]:
    return url.translate_connect_args(username="user", database="dbname") | dict(url.query)


@contextmanager
def listening(engine: Engine) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(**address(engine.url), autocommit=True) as connection:
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
        yield connection


def heard(listener: psycopg.Connection[Any], *, seconds: float = SOON) -> list[RunNotice]:
    """Return the next notice; none if none comes in time."""
    return [RunNotice.read(n.payload) for n in listener.notifies(timeout=seconds, stop_after=1)]


def test_a_run_publishes_what_it_has_moved_when_it_commits(engine: Engine) -> None:
    with listening(engine) as listener, Session(engine) as session:
        add(session, event(1), event(2), event(2))
        session.commit()
        assert heard(listener, seconds=NOTHING_COMES) == []
        run_rollup(session, GITHUB_ROLLUP_1MIN)
        assert heard(listener, seconds=NOTHING_COMES) == []
        session.commit()
        (notice,) = heard(listener)
        assert (notice.schema, notice.source, notice.changes) == ("public", "github_events", 3)
        # As of the moment that the tables of the rollups themselves are of.
        (status,) = rollup_status(session, GITHUB_ROLLUP_1MIN)
        assert notice.started == status.last_run
        assert notice.started.utcoffset() is not None


def test_nothing_is_published_where_nothing_was_moved(engine: Engine) -> None:
    with listening(engine) as listener, Session(engine) as session:
        run_rollup(session, GITHUB_ROLLUP_1MIN)
        session.commit()
        add(session, event(1))
        session.commit()
        run_rollup(session, GITHUB_ROLLUP_1MIN)
        session.rollback()
        assert heard(listener, seconds=NOTHING_COMES) == []


def test_a_batch_publishes_too(engine: Engine) -> None:
    with Session(engine) as session:
        add(session, event(1), event(2))
        session.commit()
    with listening(engine) as listener:
        assert sum(run.changes for run in catch_up(engine, GITHUB_ROLLUP_1MIN)) == 2
        assert [notice.changes for notice in heard(listener)] == [2]


def test_a_session_can_keep_its_runs_to_itself(engine: Engine) -> None:
    with listening(engine) as listener, Session(engine) as session:
        add(session, event(1))
        session.execute(text("SET LOCAL citus_analytics.notify = 'off'"))
        run_rollup(session, GITHUB_ROLLUP_1MIN)
        session.commit()
        assert heard(listener, seconds=NOTHING_COMES) == []
        # SET LOCAL leaves the setting behind, empty.
        add(session, event(1))
        run_rollup(session, GITHUB_ROLLUP_1MIN)
        session.commit()
        assert [notice.changes for notice in heard(listener)] == [1]


@ON_POSTGRESQL_ONLY
def test_a_run_can_be_prepared_if_it_does_not_publish(engine: Engine) -> None:
    write = "INSERT INTO github_events (user_id, created_at) VALUES (1, now())"
    with psycopg.connect(**address(engine.url), autocommit=True) as connection:
        for statement in ("BEGIN", write, "SELECT github_events_run()"):
            connection.execute(statement)
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="NOTIFY"):
            connection.execute("PREPARE TRANSACTION 'published'")
        connection.execute("SET citus_analytics.notify = 'off'")
        for statement in ("BEGIN", write, "SELECT github_events_run()"):
            connection.execute(statement)
        connection.execute("PREPARE TRANSACTION 'quiet'")
        connection.execute("COMMIT PREPARED 'quiet'")
    with engine.connect() as found:
        assert rolled_up_groups(found).total() == 1


@ON_POSTGRESQL_ONLY
def test_asyncio_listens_with_the_same_driver(engine: Engine) -> None:
    async def listen() -> RunNotice:
        async with await psycopg.AsyncConnection.connect(
            **address(engine.url), autocommit=True
        ) as connection:
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
            with Session(engine) as session:
                add(session, event(1))
                run_rollup(session, GITHUB_ROLLUP_1MIN)
                session.commit()
            async for notify in connection.notifies(timeout=SOON, stop_after=1):
                return RunNotice.read(notify.payload)
        raise AssertionError("nothing was published")

    notice = asyncio.run(listen())
    assert notice.changes == 1


@pytest.mark.parametrize("payload", ["", "hello", "[]", "{}", '{"source": 1, "schema": 2}'])
def test_what_others_publish_is_no_notice(payload: str) -> None:
    with pytest.raises(ArgumentError, match="is not the notice of a run"):
        RunNotice.read(payload)
