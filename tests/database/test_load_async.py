"""Loading with SQLAlchemy's asyncio: the same functions, called by `run_sync`."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import NullPool, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from citus_analytics.copy import load_csv
from citus_analytics.errors import ArgumentError, LoadError
from citus_analytics.github.load import (
    LoadOptions,
    LoadResult,
    load_api_events,
    load_events,
    load_once,
    load_users,
)
from citus_analytics.github.models import GithubEvent, GithubUser, github_events, github_users
from tests.database.load_data import EVENTS, GOOD, USERS, count
from tests.event_data import api_event, hour, refused_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sqlalchemy import URL

    from citus_analytics.github.events import Reject

    Run = Callable[[Callable[[AsyncEngine], Awaitable[None]]], None]


@pytest.fixture
def run(database: URL) -> Run:
    """Runs a coroutine with an engine."""

    def run(work: Callable[[AsyncEngine], Awaitable[None]]) -> None:
        async def main() -> None:
            engine = create_async_engine(database, poolclass=NullPool)
            try:
                await work(engine)
            finally:
                await engine.dispose()

        asyncio.run(main())

    return run


def test_csv_is_loaded_in_the_callers_transaction(run: Run) -> None:
    async def work(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session:
            session.add(GithubUser(user_id=7_000_000, login="flushed"))
            assert (await session.run_sync(load_events, io.BytesIO(EVENTS))).rows == 1000
            assert (await session.run_sync(load_users, [USERS])).rows == 50
            bad = [GOOD, b"7,PushEvent,t,2,{bad,{},5,,2025-01-01\n"]
            with pytest.raises(LoadError, match="line 2, column payload") as caught:
                await session.run_sync(load_csv, GithubEvent, bad)
            assert isinstance(caught.value.__cause__, psycopg.Error)
            # The transaction goes on.
            assert await session.run_sync(count) == 1000
            await session.rollback()
            assert await session.run_sync(count) == 0

    run(work)


def test_an_autocommit_connection_loads_all_or_nothing(run: Run, database: URL) -> None:
    async def work(engine: AsyncEngine) -> None:
        engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            with pytest.raises(LoadError, match="line 2"):
                await connection.run_sync(load_events, [GOOD, b"x\n"])
            assert await connection.run_sync(count) == 0
            await connection.run_sync(load_events, [GOOD])

    run(work)
    with create_engine(database, poolclass=NullPool).connect() as other:
        assert count(other) == 1


@pytest.mark.parametrize("unique", [False, True])
def test_json_is_loaded_once_and_what_cannot_be_stored_is_rejected(run: Run, unique: bool) -> None:
    content = hour(300) + refused_line(1) + b"{}\n" + hour(310)[len(hour(300)) :]
    rejects: list[Reject] = []
    options = LoadOptions(rejects=rejects.append, unique=unique)

    async def work(engine: AsyncEngine) -> None:
        for already in (False, True):
            async with engine.begin() as connection:
                result = await connection.run_sync(
                    load_once, github_events, io.BytesIO(content), options=options
                )
            assert (result.rows, result.rejected, result.already_loaded) == (310, 2, already)
        assert sorted(reject.line for reject in rejects) == [301, 302]
        async with engine.begin() as connection:
            users = await connection.run_sync(load_once, github_users, io.BytesIO(USERS))
            assert (users.rows, users.duplicates) == (43, 7)

    run(work)


def test_what_the_callback_raises_comes_through(run: Run) -> None:
    def interrupt(progress: object) -> None:
        raise ZeroDivisionError

    async def work(engine: AsyncEngine) -> None:
        async with engine.begin() as connection:
            with pytest.raises(ZeroDivisionError):
                await connection.run_sync(load_events, [EVENTS], progress=interrupt)
            assert await connection.run_sync(count) == 0

    run(work)


def test_events_from_an_asynchronous_iterable(run: Run) -> None:
    rejects: list[Reject] = []
    options = LoadOptions(rejects=rejects.append)

    async def events() -> AsyncIterator[dict[str, Any]]:
        for number in range(2500):
            if number % 100 == 0:
                await asyncio.sleep(0)
            yield {**api_event(number), **({"actor": {}} if number == 1700 else {})}

    async def work(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session:
            result = await session.run_sync(load_api_events, events(), options=options)
            assert result == LoadResult(rows=2499, bytes=0, rejected=1)
            assert await session.run_sync(count) == 2499

    run(work)
    assert [reject.line for reject in rejects] == [1701]


def test_an_asynchronous_connection_itself_is_refused(run: Run) -> None:
    async def work(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session:
            with pytest.raises(ArgumentError, match="run_sync"):
                load_events(session, [GOOD])  # type: ignore[arg-type]

    run(work)
