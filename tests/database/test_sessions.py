"""What an application's sessions bring along: filters, pending objects, binds, asyncio."""

from __future__ import annotations

import asyncio
from dataclasses import astuple
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

import pytest
from sqlalchemy import event, insert, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker, with_loader_criteria

from citus_analytics import ArgumentError, commit_token
from citus_analytics.catalog import cluster_status
from citus_analytics.copy import load_csv
from citus_analytics.errors import RollupError
from citus_analytics.github import analytics
from citus_analytics.github.load import load_api_events, load_events, load_once, load_users
from citus_analytics.github.migrate import downgrade, upgrade
from citus_analytics.github.models import (
    GITHUB_ROLLUP_1MIN,
    Base,
    GithubEvent,
    GithubRollup1Min,
    GithubUser,
    github_events,
    github_rollup_1min,
)
from citus_analytics.rollups.ask import Freshness
from citus_analytics.rollups.run import run_rollup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy import URL, Connection, Engine, Select
    from sqlalchemy.orm import ORMExecuteState

    from citus_analytics.sql import Executor

Answer: TypeAlias = list[tuple[Any, ...]]

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)

# What the rows of `two_users` amount to, and those that a filter leaves of them.
EVERYBODY: dict[str, Answer] = {
    "count_events": [(5,)],
    "commits_per_hour": [(NOON, 111)],
    "top_repository_creators": [("ada", 1), ("bob", 1)],
    "most_active_users": [(2, NOON, 3), (1, NOON, 2)],
    "top_contributors": [(2, 3), (1, 2)],
    "active_users": [(NOON, 2)],
    "push_sizes": [(3, 10, 100, 100)],
}
ADA: dict[str, Answer] = {
    "count_events": [(2,)],
    "commits_per_hour": [(NOON, 1)],
    "top_repository_creators": [("ada", 1)],
    "most_active_users": [(1, NOON, 2)],
    "top_contributors": [(1, 2)],
    "active_users": [(NOON, 1)],
    "push_sizes": [(1, 1, 1, 1)],
}


def tuples(rows: Iterable[Any]) -> Answer:
    return [astuple(row) for row in rows]


ASKED: dict[str, Callable[..., Answer]] = {
    "count_events": lambda s, **o: [(analytics.count_events(s, **o),)],
    "commits_per_hour": lambda s, **o: tuples(analytics.commits_per_hour(s, **o)),
    "top_repository_creators": lambda s, **o: tuples(analytics.top_repository_creators(s, **o)),
    "most_active_users": lambda s, **o: tuples(analytics.most_active_users(s, **o)),
    "top_contributors": lambda s, **o: tuples(analytics.top_contributors(s, 7, **o)),
    "active_users": lambda s, **o: tuples(analytics.active_users(s, every="1 hour", **o)),
    "push_sizes": lambda s, **o: tuples([analytics.push_sizes(s, **o)]),
}


def answers(session: Executor, freshness: Freshness = "fresh") -> dict[str, Answer]:
    """Return what the functions return, as tuples."""
    return {name: asked(session, freshness=freshness) for name, asked in ASKED.items()}


def executed(session: Executor) -> dict[str, Answer]:
    """Return the rows of the statements."""
    statements: dict[str, Select[*tuple[Any, ...]]] = {
        "count_events": analytics.count_events_statement(),
        "commits_per_hour": analytics.commits_per_hour_statement(),
        "top_repository_creators": analytics.top_repository_creators_statement(),
        "most_active_users": analytics.most_active_users_statement(),
        "top_contributors": analytics.top_contributors_statement(7),
        "active_users": analytics.active_users_statement(every="1 hour"),
        "push_sizes": analytics.push_sizes_statement(),
    }
    return {
        name: [tuple(row) for row in session.execute(statement)]
        for name, statement in statements.items()
    }


def two_users(session: Session | Connection) -> None:
    """Add Ada, who pushed and created, and Bob, who pushed twice and created; roll them up."""
    create = {"ref_type": "repository"}
    events = [
        (1, "PushEvent", {"distinct_size": 1}),
        (1, "CreateEvent", create),
        (2, "PushEvent", {"distinct_size": 10}),
        (2, "PushEvent", {"distinct_size": 100}),
        (2, "CreateEvent", create),
    ]
    session.execute(
        insert(GithubEvent),
        [
            {"event_id": n, "user_id": user, "event_type": kind, "payload": payload}
            | {"created_at": NOON, "repo_id": 7}
            for n, (user, kind, payload) in enumerate(events)
        ],
    )
    users = [{"user_id": 1, "login": "ada"}, {"user_id": 2, "login": "bob"}]
    session.execute(insert(GithubUser), users)
    run_rollup(session, GITHUB_ROLLUP_1MIN)


def test_hooks_that_keep_tenants_apart(session: Session) -> None:
    """A filter of the events applies to every function and statement, or is no filter at all."""
    two_users(session)
    for freshness in get_args(Freshness):
        assert answers(session, freshness) == executed(session) == EVERYBODY

    @event.listens_for(session, "do_orm_execute")
    def only_ada(state: ORMExecuteState) -> None:
        state.statement = state.statement.options(
            with_loader_criteria(GithubEvent, GithubEvent.user_id == 1),
        )

    assert answers(session) == answers(session, "raw") == ADA
    assert executed(session) == ADA
    # What a run has added up cannot be told apart any more.
    for asked in ASKED.values():
        with pytest.raises(RollupError, match="the session has do_orm_execute hooks"):
            asked(session, freshness="rolled_up")
    first, *_ = analytics.top_contributors(session, 7)
    assert analytics.top_contributors(session, 7, after=first) == []
    # A hook is the session's: its connection has none.
    for freshness in get_args(Freshness):
        assert answers(session.connection(), freshness) == EVERYBODY
    assert executed(session.connection()) == EVERYBODY


def test_filters_of_the_joined_users(session: Session) -> None:
    two_users(session)
    statement = analytics.top_repository_creators_statement().options(
        with_loader_criteria(GithubUser, GithubUser.login != "ada")
    )
    assert session.execute(statement).all() == [("bob", 1)]


FLUSHING: dict[str, Callable[[Session], object]] = {
    "count_events": analytics.count_events,
    "commits_per_hour": analytics.commits_per_hour,
    "top_repository_creators": analytics.top_repository_creators,
    "most_active_users": analytics.most_active_users,
    "run_rollup": lambda session: run_rollup(session, GITHUB_ROLLUP_1MIN),
}
LOADING: dict[str, Callable[[Session], object]] = {
    "load_events": lambda session: load_events(session, [b""]),
    "load_users": lambda session: load_users(session, [b""]),
    "load_csv": lambda session: load_csv(session, github_events, [b""]),
    "load_once": lambda session: load_once(session, github_events, [b""]),
    "load_api_events": lambda session: load_api_events(session, []),
}


def flush(session: Session, calls: dict[str, Callable[[Session], object]]) -> set[str]:
    """Return which of the calls flush what is pending."""
    flushed = set()
    for name, call in calls.items():
        session.add(GithubEvent(event_id=1, user_id=1, event_type="PushEvent", created_at=NOON))
        call(session)
        assert session.in_transaction()
        if not session.new:
            flushed.add(name)
        session.rollback()
    return flushed


def test_pending_objects_are_flushed_first(session: Session) -> None:
    assert flush(session, FLUSHING) == {*FLUSHING}


def test_pending_objects_are_flushed_before_a_load(session: Session) -> None:
    assert flush(session, LOADING) == {*LOADING}


def test_without_autoflush_nothing_is_flushed(engine: Engine) -> None:
    with Session(engine, autoflush=False) as session:
        assert flush(session, FLUSHING | LOADING) == set()
    with Session(engine) as session, session.no_autoflush:
        assert flush(session, FLUSHING | LOADING) == set()


def test_pending_objects_are_counted(session: Session) -> None:
    session.add(GithubEvent(event_id=1, user_id=1, event_type="PushEvent", created_at=NOON))
    with session.no_autoflush:
        assert analytics.count_events(session) == 0
        assert run_rollup(session, GITHUB_ROLLUP_1MIN).changes == 0
    assert analytics.count_events(session) == 1
    assert run_rollup(session, GITHUB_ROLLUP_1MIN).changes == 1
    assert tuples(analytics.most_active_users(session)) == [(1, NOON, 1)]


def test_factories_and_scoped_sessions(engine: Engine) -> None:
    with engine.begin() as connection:
        two_users(connection)
    factory = sessionmaker(engine)
    with factory() as session:
        assert answers(session) == executed(session) == EVERYBODY
    scope = scoped_session(factory)
    assert answers(scope) == executed(scope) == EVERYBODY
    scope.add(GithubEvent(event_id=9, user_id=3, created_at=NOON))
    assert run_rollup(scope, GITHUB_ROLLUP_1MIN).changes == 1
    assert not scope.new
    scope.remove()


def test_binds_of_mapped_classes_and_tables(engine: Engine) -> None:
    with engine.begin() as connection:
        two_users(connection)
    binds_of_applications: list[dict[Any, Engine | Connection]] = [
        {GithubEvent: engine, GithubRollup1Min: engine},
        {github_events: engine, github_rollup_1min: engine},
    ]
    for binds in binds_of_applications:
        with Session(binds=binds) as session:
            assert answers(session) == executed(session) == EVERYBODY
            assert run_rollup(session, GITHUB_ROLLUP_1MIN).changes == 0
    with Session(binds={Base: engine}) as session:
        assert answers(session) == executed(session) == EVERYBODY


def test_tokens_of_sessions_with_several_binds(engine: Engine) -> None:
    current = text("SELECT pg_current_xact_id()::text")
    several: list[tuple[dict[Any, Engine | Connection], Any]] = [
        ({GithubEvent: engine}, GithubEvent),
        ({github_events: engine}, github_events),
        ({Base: engine}, GithubEvent),
    ]
    for binds, source in several:
        with Session(binds=binds) as session:
            session.add(GithubEvent(event_id=9, user_id=3, created_at=NOON))
            with pytest.raises(ArgumentError, match=r"as in commit_token\(session, Reading\)"):
                commit_token(session)
            token = commit_token(session, source)
            where = {"mapper": GithubEvent, "clause": github_events}
            assert session.connection(bind_arguments=where).scalar(current) == token
    with Session(engine) as session:
        assert commit_token(session) == session.scalar(current)
        assert commit_token(session, GithubUser) == session.scalar(current)


def test_translated_schemas(engine: Engine) -> None:
    with engine.begin() as connection:
        two_users(connection)
    with Session(engine.execution_options(schema_translate_map={None: "public"})) as session:
        session.execute(text("SET LOCAL search_path TO pg_catalog"))
        assert answers(session) == executed(session) == EVERYBODY
        assert run_rollup(session, GITHUB_ROLLUP_1MIN).changes == 0


def test_asyncio(engine: Engine) -> None:
    """Everything that takes a session runs in `run_sync`, analytics and rollups alike."""

    async def ask() -> None:
        async_engine = create_async_engine(engine.url)
        async with AsyncSession(async_engine) as session:
            await session.run_sync(two_users)
            assert await session.run_sync(executed) == EVERYBODY
            assert await session.run_sync(analytics.count_events, event_type="PushEvent") == 3
            hours = await session.run_sync(analytics.commits_per_hour, since=NOON)
            assert tuples(hours) == [(NOON, 111)]
            creators = await session.run_sync(analytics.top_repository_creators, limit=1)
            assert tuples(creators) == [("ada", 1)]
            active = await session.run_sync(analytics.most_active_users, until=NOON)
            assert active == []
            awaited = await session.execute(analytics.count_events_statement(since=NOON))
            assert awaited.scalar_one() == 5
            session.add(GithubEvent(event_id=9, user_id=3, created_at=NOON))
            run = await session.run_sync(run_rollup, GITHUB_ROLLUP_1MIN)
            assert run.changes == 1
            loaded = await session.run_sync(load_events, [b"10,,,,,,4,,2026-01-05 12:00Z\n"])
            assert loaded.rows == 1
            await session.commit()
        async with async_engine.connect() as connection:
            assert await connection.run_sync(analytics.count_events) == 7
            run = await connection.run_sync(run_rollup, GITHUB_ROLLUP_1MIN)
            assert run.changes == 1
        await async_engine.dispose()

    asyncio.run(ask())


def test_migrations_and_the_catalog_from_asyncio(empty_database: URL) -> None:
    async def migrate() -> None:
        async_engine = create_async_engine(empty_database)
        async with async_engine.begin() as connection:
            await connection.run_sync(upgrade)
        async with async_engine.connect() as connection:
            status = await connection.run_sync(cluster_status)
            assert "github_events" in {table.name for table in status.tables}
            assert await connection.run_sync(analytics.count_events) == 0
        async with async_engine.begin() as connection:
            await connection.run_sync(downgrade, "base")
        await async_engine.dispose()

    asyncio.run(migrate())
