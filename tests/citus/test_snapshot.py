"""A consistent snapshot: transfers between accounts, whose sum is zero at every moment."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import (
    BigInteger,
    Engine,
    NullPool,
    SingletonThreadPool,
    StaticPool,
    create_engine,
    func,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import citus_analytics
from citus_analytics import GITHUB_ROLLUP_1MIN, ArgumentError, SnapshotError, run_rollup
from citus_analytics.github.models import GITHUB_EVENTS_BY_TYPE
from tests.processes import wait_for_daemon
from tests.rollups import add, event
from tests.servers import ON_CITUS_ONLY, ON_EVERY_SERVER, ON_POSTGRESQL_ONLY, execute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection, Executable

    from tests.servers import DatabaseServer, Prepared

# On a busy machine what takes some milliseconds takes more than the second of the default.
consistent_snapshot: Any = partial(
    citus_analytics.consistent_snapshot, timeout=timedelta(seconds=30)
)
ACCOUNTS = 40
LIKELY = 120.0  # Seconds in which what happens in one of ten reads has happened.


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    balance: Mapped[int] = mapped_column(BigInteger)


class Rate(Base):
    __tablename__ = "rates"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)


TOTAL = select(func.sum(Account.balance))
# Half of the accounts are read before the rest of the statement.
HALF = select(Account.id).where(Account.id % 2 == 0).order_by(Account.id).limit(ACCOUNTS)


@pytest.fixture
def engines(server: DatabaseServer, prepared: Prepared) -> list[Engine]:
    """An engine for each node, the coordinator's first; the accounts are there."""

    def prepare(engine: Engine) -> None:
        Base.metadata.create_all(engine)
        if server.kind == "citus":
            execute(
                engine.url,
                "SELECT create_distributed_table('accounts', 'id')",
                "SELECT create_reference_table('rates')",
            )
        execute(
            engine.url,
            f"INSERT INTO accounts SELECT n, 0 FROM generate_series(1, {ACCOUNTS}) AS n",
            "INSERT INTO rates VALUES (1)",
        )

    name = prepared("accounts", prepare).url.database
    assert name is not None
    urls = [node.url_for(name) for node in server.nodes]
    return [create_engine(url, poolclass=NullPool) for url in urls]


@contextmanager
def transfers(*engines: Engine) -> Iterator[None]:
    """Move money between two accounts again and again, through each of the engines."""
    done = threading.Event()
    failed: list[Exception] = []

    def write(engine: Engine, seed: int) -> None:
        rng = random.Random(seed)
        try:
            with engine.connect() as connection:
                while not done.is_set():
                    # In one order, so that nobody waits for one another.
                    for amount, account in zip(
                        (1, -1), sorted(rng.sample(range(1, ACCOUNTS + 1), 2)), strict=True
                    ):
                        connection.execute(
                            update(Account)
                            .where(Account.id == account)
                            .values(balance=Account.balance + amount)
                        )
                    connection.commit()
        except Exception as error:  # noqa: BLE001 - it is raised below
            failed.append(error)

    threads = [
        threading.Thread(target=write, args=(engine, seed), daemon=True)
        for seed, engine in enumerate(engines)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join(30)
    assert failed == []


def sums(connection: Connection) -> list[int]:
    """Read all accounts in several ways."""
    found = [connection.scalar(TOTAL)]
    even = TOTAL.where(Account.id.in_(HALF)).scalar_subquery()
    odd = TOTAL.where(Account.id.not_in(HALF)).scalar_subquery()
    found.append(connection.scalar(select(even + odd)))
    found.append(sum(Session(connection).scalars(select(Account.balance))))
    each = (select(Account.balance).where(Account.id == n + 1) for n in range(ACCOUNTS))
    found.append(sum(connection.scalar(one) or 0 for one in each))
    assert connection.scalar(select(func.count()).select_from(Rate)) == 1
    found.append(connection.scalar(TOTAL))
    return [int(each or 0) for each in found]


@ON_EVERY_SERVER
def test_transfers_sum_to_zero(engines: list[Engine]) -> None:
    with transfers(engines[0], engines[0]):
        for _ in range(8):
            with consistent_snapshot(engines[0]) as connection:
                assert sums(connection) == [0] * 5


@ON_CITUS_ONLY
def test_a_transaction_alone_is_not_enough(engines: list[Engine]) -> None:
    """What the snapshot is for: the same reads in a transaction of REPEATABLE READ."""
    deadline = time.monotonic() + LIKELY
    with transfers(engines[0], engines[0]), engines[0].connect() as plain:
        connection = plain.execution_options(isolation_level="REPEATABLE READ")
        wrong = False
        while not wrong:
            assert time.monotonic() < deadline, "all sums were right"
            wrong = any(sums(connection))
            connection.rollback()


@ON_CITUS_ONLY
def test_writers_through_workers(engines: list[Engine]) -> None:
    with transfers(*engines):
        for _ in range(4):
            with consistent_snapshot(engines[0], writers=engines[1:]) as connection:
                assert sums(connection) == [0] * 5
            # Read through a worker.
            others = [engines[0], engines[2]]
            with consistent_snapshot(engines[1], writers=others) as connection:
                assert sums(connection) == [0] * 5
        with (
            pytest.raises(SnapshotError, match="writes to several nodes itself"),
            consistent_snapshot(engines[0]),
        ):
            pass


@ON_EVERY_SERVER
def test_it_is_as_of_one_moment_and_only_read(engines: list[Engine]) -> None:
    change = update(Account).values(balance=1)
    with consistent_snapshot(engines[0]) as connection:
        with engines[0].begin() as other:
            other.execute(change)
        assert connection.scalar(TOTAL) == 0
        with pytest.raises(DBAPIError, match="read-only"), connection.begin_nested():
            connection.execute(change)
        assert connection.scalar(TOTAL) == 0
        assert connection.scalar(text("SHOW statement_timeout")) == "0"
    with engines[0].begin() as connection:
        assert connection.scalar(TOTAL) == ACCOUNTS
        # What is set for a snapshot ends with it.
        connection.execute(change)


@ON_EVERY_SERVER
def test_asyncio(engines: list[Engine]) -> None:
    async def read() -> list[int]:
        engine = create_async_engine(engines[0].url, poolclass=NullPool)
        found = []
        for _ in range(3):
            async with consistent_snapshot(engine) as connection:
                found += await connection.run_sync(sums)
                async with AsyncSession(connection) as session:
                    found.append(sum(await session.scalars(select(Account.balance))))
        with pytest.raises(SnapshotError, match="was ended in the block"):
            async with consistent_snapshot(engine) as connection:
                await connection.commit()
        await engine.dispose()
        return found

    with transfers(engines[0]):
        assert not any(asyncio.run(read()))


@ON_EVERY_SERVER
@pytest.mark.parametrize(
    "options",
    [
        {"pool_size": 1, "max_overflow": 0, "pool_timeout": 5},
        {"poolclass": StaticPool},
        {"poolclass": SingletonThreadPool},
        {"poolclass": NullPool, "execution_options": {"stream_results": True}},
        {"poolclass": NullPool, "execution_options": {"yield_per": 7}},
    ],
    ids=["of one", "static", "of the thread", "streaming", "in batches"],
)
def test_engines(engines: list[Engine], options: dict[str, Any]) -> None:
    """A pool that has no second connection, and whatever is read by cursors of the server."""
    engine = create_engine(engines[0].url, **options)
    try:
        with transfers(engines[0]):
            for _ in range(3):
                with consistent_snapshot(engine) as connection:
                    assert sums(connection) == [0] * 5
                    rows = connection.execute(select(Account.id).order_by(Account.id))
                    streamed = "execution_options" in options
                    assert isinstance(rows.cursor, psycopg.ServerCursor) == streamed
                    assert [row.id for row in rows] == [*range(1, ACCOUNTS + 1)]
    finally:
        engine.dispose()


@ON_EVERY_SERVER
def test_snapshots_in_a_pool_of_one(engines: list[Engine]) -> None:
    """Each of several waits for the one before, and for nothing else."""

    async def read() -> list[list[int]]:
        engine = create_async_engine(
            engines[0].url, pool_size=1, max_overflow=0, pool_timeout=LIKELY
        )

        async def once() -> list[int]:
            async with consistent_snapshot(engine) as connection:
                found: list[int] = await connection.run_sync(sums)
                return found

        found = await asyncio.gather(*(once() for _ in range(4)))
        await engine.dispose()
        return found

    assert asyncio.run(read()) == [[0] * 5] * 4


@ON_EVERY_SERVER
def test_a_transaction_that_ends_is_noticed(engines: list[Engine]) -> None:
    def leave(end: Callable[[Connection], object]) -> None:
        with consistent_snapshot(engines[0]) as connection:
            end(connection)

    for end in (
        lambda connection: connection.commit(),
        lambda connection: (connection.rollback(), connection.scalar(TOTAL)),
    ):
        with pytest.raises(SnapshotError, match="was ended in the block"):
            leave(end)
    with pytest.raises(ZeroDivisionError):
        leave(lambda _: 1 // 0)


@ON_EVERY_SERVER
def test_a_statement_that_fails_is_an_error_of_the_block(engines: list[Engine]) -> None:
    """One that leaves the block is raised as it is; one that is caught in it, in our words."""
    wrong: list[tuple[Executable, type[psycopg.Error]]] = [
        (update(Account).values(balance=1), psycopg.errors.ReadOnlySqlTransaction),
        (text("SELECT 1 / 0"), psycopg.errors.DivisionByZero),
        (text("nonsense"), psycopg.errors.SyntaxError),
        (text("SELECT nothing FROM nowhere"), psycopg.errors.UndefinedTable),
    ]

    def caught(statement: Executable, *, savepoint: bool = False) -> None:
        with consistent_snapshot(engines[0]) as connection:
            assert connection.scalar(TOTAL) == 0
            with suppress(DBAPIError), connection.begin_nested() if savepoint else nullcontext():
                connection.execute(statement)

    def killed() -> None:
        kill = text("SELECT pg_terminate_backend(CAST(:own AS integer), CAST(60000 AS bigint))")
        with consistent_snapshot(engines[0]) as connection:
            own = connection.scalar(text("SELECT pg_backend_pid()"))
            with engines[0].connect() as other:
                assert other.scalar(kill, {"own": own})
            with suppress(DBAPIError):
                connection.scalar(TOTAL)

    async def caught_asynchronously() -> None:
        engine = create_async_engine(engines[0].url, poolclass=NullPool)
        async with consistent_snapshot(engine) as connection:
            with suppress(DBAPIError):
                await connection.execute(text("SELECT 1 / 0"))

    for statement, kind in wrong:
        with pytest.raises(DBAPIError) as failed, consistent_snapshot(engines[0]) as connection:
            connection.execute(statement)
        assert isinstance(failed.value.orig, kind)
        with pytest.raises(SnapshotError, match="a statement has failed in the block"):
            caught(statement)
        caught(statement, savepoint=True)
    with pytest.raises(SnapshotError):
        killed()
    with pytest.raises(SnapshotError, match="a statement has failed in the block"):
        asyncio.run(caught_asynchronously())


@ON_EVERY_SERVER
def test_rollups_equal_raw_while_runs_commit(server: DatabaseServer, engine: Engine) -> None:
    """Also those of which every node has a copy, through a worker, without a wait for runs."""
    assert engine.url.database is not None
    last = create_engine(server.nodes[-1].url_for(engine.url.database), poolclass=NullPool)
    done = threading.Event()

    def keep(work: Callable[[Connection, int], object]) -> None:
        for number in range(1 << 30):
            if done.is_set():
                return
            with engine.begin() as connection:
                work(connection, number)

    def insert(connection: Connection, number: int) -> None:
        add(connection, *(event(7 * number + n) for n in range(5)))

    # The sum of nothing is no number: the first look may come before the first of them.
    with engine.begin() as connection:
        insert(connection, 0)
    threads = [
        threading.Thread(target=keep, args=(work,), daemon=True)
        for work in (insert, lambda connection, _: run_rollup(connection, GITHUB_ROLLUP_1MIN))
    ]
    for thread in threads:
        thread.start()
    try:
        for number in range(8):
            time.sleep(0.1)
            through, others = ((engine, []), (last, [engine]))[number % 2]
            with consistent_snapshot(through, writers=others) as connection:
                raw = connection.scalar(text("SELECT count(*) FROM github_events"))
                by_type = GITHUB_EVENTS_BY_TYPE.fresh("1 hour")
                assert connection.scalar(select(func.sum(by_type.c.events))) == raw
                assert connection.scalar(GITHUB_EVENTS_BY_TYPE.select(measures=["events"])) == raw
                of_users = GITHUB_ROLLUP_1MIN.select(measures=["total_events"])
                assert connection.scalar(of_users) == raw
    finally:
        done.set()
        for thread in threads:
            thread.join(30)
    assert raw > 0


@ON_CITUS_ONLY
def test_a_further_connection_is_noticed(engines: list[Engine]) -> None:
    execute(
        engines[0].url,
        "CREATE TABLE others (id bigint)",
        "SELECT create_distributed_table('others', 'id', colocate_with => 'none', "
        "shard_count => 8)",
    )

    def read_in_parallel() -> None:
        with consistent_snapshot(engines[0]) as connection:
            connection.execute(text("SET LOCAL citus.max_adaptive_executor_pool_size = 4"))
            connection.execute(text("SET LOCAL citus.force_max_query_parallelization = on"))
            connection.execute(text("SELECT * FROM others"))

    with pytest.raises(SnapshotError, match="a further connection to node"):
        read_in_parallel()


@ON_CITUS_ONLY
def test_a_transaction_in_doubt_is_noticed(engines: list[Engine]) -> None:
    """As a coordinator leaves it behind that fails before it has told a node to commit."""
    wait_for_daemon(engines[0].url)
    with engines[2].connect() as worker:
        worker.execute(text("CREATE TABLE left_behind ()"))
        worker.execute(text("PREPARE TRANSACTION 'citus_0_1_1_1'"))
    try:
        with (
            pytest.raises(SnapshotError, match="recover_prepared_transactions"),
            consistent_snapshot(engines[0]),
        ):
            pass
    finally:
        execute(engines[2].url, "ROLLBACK PREPARED 'citus_0_1_1_1'")
    with consistent_snapshot(engines[0]) as connection:
        assert connection.scalar(TOTAL) == 0


@ON_CITUS_ONLY
def test_it_does_not_wait_for_long(engines: list[Engine]) -> None:
    half = timedelta(seconds=0.5)
    with engines[0].connect() as busy:
        busy.execute(text("LOCK TABLE pg_dist_transaction IN ROW EXCLUSIVE MODE"))
        started = time.monotonic()
        with (
            pytest.raises(SnapshotError, match=r"within 0\.5 seconds.*Try again"),
            consistent_snapshot(engines[0], timeout=half),
        ):
            pass
        assert time.monotonic() - started < 10
        busy.rollback()
        # The lock of the table that is read to get to a node, for longer than the timeout.
        busy.execute(text("LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE"))
        release = threading.Timer(4, busy.rollback)
        release.start()
        with consistent_snapshot(engines[0], timeout=6 * half) as connection:
            assert connection.scalar(TOTAL) == 0
        release.join()


@ON_CITUS_ONLY
def test_rights(engines: list[Engine]) -> None:
    role, url = "snapshot_reader", engines[0].url
    execute(url, f"CREATE ROLE {role} LOGIN", f"GRANT SELECT ON accounts, rates TO {role}")
    try:
        reader = create_engine(url.set(username=role), poolclass=NullPool)
        with (
            pytest.raises(SnapshotError, match=r"GRANT UPDATE ON pg_catalog\.pg_dist_tr"),
            consistent_snapshot(reader),
        ):
            pass
        execute(url, f"GRANT UPDATE ON pg_catalog.pg_dist_transaction TO {role}")
        with transfers(engines[0]):
            for _ in range(3):
                with consistent_snapshot(reader) as connection:
                    assert sums(connection) == [0] * 5
    finally:
        execute(url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@ON_POSTGRESQL_ONLY
def test_arguments(engines: list[Engine]) -> None:
    with pytest.raises(ArgumentError, match="timeout must be a positive timedelta"):
        consistent_snapshot(engines[0], timeout=timedelta())
    with pytest.raises(ArgumentError, match="a positive timedelta, got 3"):
        citus_analytics.consistent_snapshot(engines[0], timeout=3)  # type: ignore[call-overload]
    with pytest.raises(ArgumentError, match="got str"):
        citus_analytics.consistent_snapshot("postgresql://")  # type: ignore[call-overload]
