"""Answers page by page and row by row: together they are the whole answer, in its order."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import NullPool, event, func, insert, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session, with_loader_criteria

from citus_analytics import average, count, distinct, percentiles, run_rollup, total
from citus_analytics.errors import ArgumentError, RollupError
from citus_analytics.frames import to_arrow_batches
from citus_analytics.github import analytics
from citus_analytics.github.load import (
    load_api_events,
    load_events,
    load_files,
    load_once,
    load_users,
)
from citus_analytics.github.migrate import upgrade
from citus_analytics.github.models import GITHUB_ROLLUP_1MIN, GithubEvent, github_users
from citus_analytics.github.sample import Sample
from citus_analytics.github.store import Buffers, LoadOptions
from citus_analytics.rollups.ask import Question
from tests.database.analytics_data import CLOCK_CHANGES, add_events, random_users
from tests.database.test_more_analytics import some_events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Connection, Engine
    from sqlalchemy.orm import ORMExecuteState

    from citus_analytics import Measure
    from citus_analytics.rollups.ask import Freshness
    from tests.servers import Prepared

SINCE: Final = CLOCK_CHANGES[0] - timedelta(hours=3)
WINDOWS: Final[list[dict[str, Any]]] = [{}, {"since": SINCE, "until": CLOCK_CHANGES[4]}]
QUESTIONS: Final = {
    # By the ranking of a rollup, with many equal numbers.
    "ranked": Question(
        GithubEvent,
        measures={"events": count()},
        by=[GithubEvent.user_id],
        every="1 minute",
        ranked="events",
        undated=False,
    ),
    # Sums, which may be NULL, of groups that may be.
    "sums": Question(
        GithubEvent,
        measures={"repositories": total(GithubEvent.repo_id), "mean": average(GithubEvent.repo_id)},
        by=[GithubEvent.event_type, GithubEvent.user_id],
        ranked="repositories",
    ),
    "means": Question(
        GithubEvent,
        measures={"mean": average(GithubEvent.repo_id)},
        by=[GithubEvent.user_id],
        ranked="mean",
    ),
    "groups": Question(
        GithubEvent,
        measures={"events": count()},
        by=[GithubEvent.repo_id, GithubEvent.event_type],
        every="1 day at Europe/Berlin",
    ),
}


@pytest.fixture
def asked(prepared: Prepared) -> Iterator[Session]:
    """A session on events of which some are pending."""

    def prepare(engine: Engine) -> None:
        upgrade(engine.url)
        events = some_events(500)
        with engine.begin() as connection:
            connection.execute(insert(github_users), random_users())
            add_events(connection, events[:350])
            run_rollup(connection, GITHUB_ROLLUP_1MIN)
        with engine.begin() as connection:
            add_events(connection, events[350:])
            connection.execute(text("DELETE FROM github_events WHERE event_id % 40 = 3"))

    with Session(prepared("pages", prepare)) as session:
        yield session


@pytest.mark.parametrize("window", WINDOWS, ids=["all", "window"])
@pytest.mark.parametrize("freshness", ["fresh", "rolled_up", "raw"])
def test_pages_are_the_answer(asked: Session, freshness: Freshness, window: dict[str, Any]) -> None:
    for name, question in QUESTIONS.items():
        options: dict[str, Any] = {"freshness": freshness, **window}
        try:
            whole = question.ask(asked, **options)
        except RollupError:
            assert (freshness, name in ("sums", "means")) == ("rolled_up", True)
            continue
        rows = [tuple(row) for row in whole]
        assert len(rows) > 20
        found: list[Any] = []
        last = None
        while page := list(question.ask(asked, limit=17, after=last, **options)):
            found += page
            last = page[-1]
        assert [tuple(row) for row in found] == rows, name
        # From each row on, also without a limit, and from the columns alone.
        for number in range(0, len(rows), 37):
            rest = question.ask(asked, after=dict(whole.rows[number]._mapping), **options)
            assert [tuple(row) for row in rest] == rows[number + 1 :], name
            few = question.ask(asked, after=whole.rows[number], limit=1001, **options)
            assert [tuple(row) for row in few] == rows[number + 1 :][:1001], name


LISTS: Final[dict[str, Callable[..., list[Any]]]] = {
    "creators": analytics.top_repository_creators,
    "active": analytics.most_active_users,
    "trending": analytics.trending_repositories,
    "forked": lambda session, **options: analytics.trending_repositories(
        session, event_type="PushEvent", **options
    ),
    "contributors": lambda session, **options: analytics.top_contributors(session, 1, **options),
}


@pytest.mark.parametrize("freshness", ["fresh", "rolled_up", "raw"])
@pytest.mark.parametrize("name", LISTS)
def test_pages_of_the_analytics(asked: Session, name: str, freshness: str) -> None:
    for window in WINDOWS:
        ask = LISTS[name]
        whole = ask(asked, limit=None, freshness=freshness, **window)
        assert len(whole) > 2
        found: list[Any] = []
        while page := ask(
            asked, limit=3, after=found[-1] if found else None, freshness=freshness, **window
        ):
            found += page
            if len(found) > 60:
                break
        assert found == whole[: len(found)]
        for each in whole[::29]:
            rest = ask(asked, limit=None, after=each, freshness=freshness, **window)
            assert rest == whole[whole.index(each) + 1 :]


PUSHES: Final = GithubEvent.event_type == "PushEvent"
EXPRESSIONS: Final[list[tuple[dict[str, Measure], Any, str | None]]] = [
    ({"events": count()}, [], "events"),
    ({"users": distinct(GithubEvent.user_id)}, [func.mod(GithubEvent.user_id, 4).label("k")], None),
    ({"mean": average(GithubEvent.user_id)}, [(GithubEvent.repo_id % 4).label("k")], "mean"),
    ({"events": count()}, [GithubEvent.event_type, PUSHES.label("push")], "events"),
    ({"events": count()}, [GithubEvent.payload["distinct_size"].astext.label("size")], "events"),
    ({"p": percentiles(GithubEvent.repo_id, [0.5])}, [PUSHES.label("push")], "p50"),
]


@pytest.mark.parametrize("every", [None, "1 day at Europe/Berlin"])
def test_pages_of_sessions_with_hooks(asked: Session, every: str | None) -> None:
    """What hooks filter is in no page; groups may be expressions, also beside the measures."""
    some = GithubEvent.user_id.between(2, 30)
    cases = []
    for measures, by, ranked in EXPRESSIONS[0 if every else 1 :]:
        asks: dict[str, Any] = {"measures": measures, "by": by, "ranked": ranked, "every": every}
        filtered = Question(GithubEvent, where=some, **asks).ask(asked, freshness="raw")
        assert len(filtered) > 1
        cases.append((Question(GithubEvent, **asks), list(filtered)))
    contributors = analytics.top_contributors(asked, 1, limit=None)

    def filtering(state: ORMExecuteState) -> None:
        state.statement = state.statement.options(with_loader_criteria(GithubEvent, some))

    event.listen(asked, "do_orm_execute", filtering)
    for question, rows in cases:
        found: list[Any] = []
        while page := question.ask(asked, limit=9, after=found[-1] if found else None).rows:
            found += page
        assert found == rows
        for number in range(0, len(rows), 25):
            assert list(question.stream(asked, after=rows[number])) == rows[number + 1 :]
    few = analytics.top_contributors(asked, 1, limit=None)
    assert {each.user_id for each in few} == {
        each.user_id for each in contributors if each.user_id in range(2, 31)
    }
    assert analytics.top_contributors(asked, 1, limit=None, after=few[0]) == few[1:]
    creators = analytics.top_repository_creators(asked)
    assert len(creators) > 3
    assert analytics.top_repository_creators(asked, after=creators[0]) == creators[1:]


def test_what_is_no_row_of_an_answer(session: Session) -> None:
    with pytest.raises(ArgumentError, match="after must be a row of an earlier answer, with event"):
        QUESTIONS["ranked"].ask(session, after={"user_id": 3})
    with pytest.raises(ArgumentError, match="found 17"):
        QUESTIONS["groups"].ask(session, after=17)  # type: ignore[arg-type]
    naive = {"bucket": SINCE.replace(tzinfo=None), "repo_id": 1, "event_type": "PushEvent"}
    with pytest.raises(ArgumentError, match="the bucket of after must be an aware datetime"):
        QUESTIONS["groups"].ask(session, after=naive)
    with pytest.raises(ArgumentError, match="has one row, and nothing comes after it"):
        Question(GithubEvent, measures={"events": count()}).ask(session, after={"events": 3})
    sized = Question(
        GithubEvent, measures={"events": count()}, by=[GithubEvent.payload["size"].label("size")]
    )
    with pytest.raises(ArgumentError, match=r"the null of JSON or the NULL of SQL.*astext"):
        sized.ask(session, after={"size": None})
    with pytest.raises(ArgumentError, match="after must be a Contributor of an earlier answer"):
        analytics.top_contributors(session, 1, after=(1, 3))  # type: ignore[arg-type]
    for freshness in ("fresh", "rolled_up"):
        other: Any = analytics.Contributor(1, 3)
        with pytest.raises(ArgumentError, match="after must be a UserActivity"):
            analytics.most_active_users(session, after=other, freshness=freshness)


# Row by row.


@pytest.mark.parametrize("freshness", ["fresh", "raw"])
def test_streams_are_the_answer(asked: Session, freshness: Freshness) -> None:
    for question in QUESTIONS.values():
        answer = question.ask(asked, freshness=freshness)
        with question.stream(asked, freshness=freshness, batch=7) as stream:
            assert stream.plan.freshness == answer.plan.freshness
            assert stream.plan.steps == answer.plan.steps
            rows = list(stream)
        assert rows == list(answer)
        assert [row._fields for row in rows] == [row._fields for row in answer]
        middle = answer.rows[len(answer) // 2]
        rest = question.stream(asked, after=middle, limit=5, freshness=freshness)
        assert list(rest) == list(answer)[len(answer) // 2 + 1 :][:5]
    total_ = Question(GithubEvent, measures={"events": count()})
    (row,) = total_.stream(asked)
    assert row.events == total_.ask(asked).rows[0].events


def test_a_stream_is_of_one_moment(engine: Engine) -> None:
    """Whatever is written and run while it is read; and it is not read all at once."""
    with engine.begin() as connection:
        add_events(connection, some_events(500))
        run_rollup(connection, GITHUB_ROLLUP_1MIN)
        add_events(connection, some_events(100))
    question = QUESTIONS["ranked"]
    with engine.connect() as connection, engine.connect() as other:
        before = list(question.ask(connection))
        connection.rollback()
        stream = question.stream(connection, batch=10)
        rows = iter(stream)
        found = [next(rows) for _ in range(25)]
        cursors = text("SELECT count(*) FROM pg_cursors")
        assert connection.scalar(cursors) == 1, "the rest is still on the server"
        other.execute(text("DELETE FROM github_events WHERE user_id > 20"))
        run_rollup(other, GITHUB_ROLLUP_1MIN)
        other.execute(text("TRUNCATE github_events"))
        run_rollup(other, GITHUB_ROLLUP_1MIN)
        found += rows
        assert found == before
        assert connection.scalar(cursors) == 0
        # A closed one leaves the connection as it was.
        connection.rollback()
        with question.stream(connection, batch=10) as stream:
            next(iter(stream))
        assert connection.scalar(cursors) == 0
        assert len(list(question.ask(connection))) == len(before)


def test_a_stream_is_read_once(asked: Session) -> None:
    """Nobody takes its rows for none, or for all of them, when they read it again."""
    for freshness in ("fresh", "raw"):
        question = QUESTIONS["groups"]
        assert len(question.ask(asked, freshness=freshness)) > 1
        for read in (
            list,
            lambda stream: next(iter(stream)),
            lambda stream: stream.close(),
            lambda stream: to_arrow_batches(stream).read_all(),
        ):
            stream = question.stream(asked, freshness=freshness)
            read(stream)
            for again in (list, to_arrow_batches):
                with pytest.raises(ArgumentError, match=r"read once, .* ask again"):
                    again(stream)
            stream.close()


def test_a_stream_needs_a_transaction(engine: Engine) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        with pytest.raises(ArgumentError, match="connection is in autocommit mode"):
            QUESTIONS["groups"].stream(connection)
        with pytest.raises(ArgumentError, match="batch must be a positive integer; found 0"):
            QUESTIONS["groups"].stream(connection, batch=0)


def test_a_stream_from_asyncio(engine: Engine) -> None:
    with engine.begin() as connection:
        add_events(connection, some_events(100))
        expected = list(QUESTIONS["groups"].ask(connection))

    async def read() -> list[Any]:
        asynchronous = create_async_engine(engine.url, poolclass=NullPool)
        async with asynchronous.connect() as connection:
            return await connection.run_sync(
                lambda given: list(QUESTIONS["groups"].stream(given, batch=9))
            )

    assert asyncio.run(read()) == expected


# What has been loaded is in the answer.


def test_tokens_of_loads(engine: Engine, tmp_path: Path) -> None:
    sample = Sample(events=300, users=20, since=SINCE, until=SINCE + timedelta(hours=1))
    path = tmp_path / "events.csv"
    path.write_bytes(b"".join(sample.events_csv()))
    with engine.connect() as connection, engine.connect() as other:
        counted = Question(GithubEvent, measures={"events": count()})
        loads: list[Callable[[Connection], Any]] = [
            lambda connection: load_events(connection, path),
            lambda connection: load_users(connection, sample.users_csv()),
            lambda connection: load_once(connection, GithubEvent, path),
            lambda connection: load_api_events(connection, []),
        ]
        for load in loads:
            token = load(connection).token
            assert counted.ask(connection, at_least=token).plan.freshness == "fresh"
            with pytest.raises(RollupError, match="is not visible here"):
                counted.ask(other, at_least=token)
            other.rollback()
            connection.commit()
            assert counted.ask(other, at_least=token).rows == counted.ask(other).rows
            other.rollback()
        # Over several connections there are several transactions.
        more = Sample(events=3000, since=SINCE, until=CLOCK_CHANGES[1])
        path.write_bytes(b"".join(more.events_csv()))
        (result,) = load_files(
            engine,
            GithubEvent,
            path,
            options=LoadOptions(buffers=Buffers(part_size=100_000)),
            connections=2,
        )
        assert len(set(result.token.split(","))) == 2
        assert counted.ask(other, at_least=result.token).rows[0].events == 3600
        with pytest.raises(RollupError, match="is not visible here"):
            counted.ask(other, at_least=f"{result.token},{10**15}")
