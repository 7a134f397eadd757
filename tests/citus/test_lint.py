"""Every rule of the linter is true: Citus refuses what breaks it, or takes it and harm is done.

The examples are those of the pages in `docs/lint/`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from alembic import command
from sqlalchemy import Connection, Engine, NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from citus_analytics.errors import OperationError
from citus_analytics.lint import RULES, lint_migrations
from citus_analytics.migrations import UndistributeTableOp
from tests.lint_pages import metadata_of, page, write_example, write_migrations
from tests.lint_server import configuration_of, create, create_on
from tests.lint_sources import migration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.servers import DatabaseServer

# What no other test may suffer from.
CRASHES = "CA111"
REFUSED = [
    code
    for code, rule in RULES.items()
    if rule.severity == "error" and not rule.until and code != CRASHES
]
ON_WORKERS = "SELECT success, result FROM run_command_on_workers(:command)"


@pytest.fixture
def plain(citus: DatabaseServer) -> Iterator[Engine]:
    """An engine on an empty database, for what has to be committed."""
    with citus.database("empty") as url:
        yield create_engine(url, poolclass=NullPool)


@pytest.fixture(scope="module")
def shared(citus: DatabaseServer) -> Iterator[Engine]:
    """An engine on an empty database that stays empty."""
    with citus.database("empty") as url:
        yield create_engine(url, poolclass=NullPool)


def run(example: str, engine: Engine, folder: Path) -> None:
    """Create the tables of an example, or run its migrations, one by one."""
    if (written := write_example(folder, example)) is not None:
        config = configuration_of(engine.url, written)
        command.upgrade(config, "+1")
        command.upgrade(config, "head")
    else:
        create(metadata_of(example), engine.url)


def run_and_undo(example: str, shared: Engine, citus: DatabaseServer, folder: Path) -> None:
    """Run an example, and leave nothing of it."""
    if "def upgrade()" in example or "context.configure" in example:
        with citus.database("empty") as url:
            run(example, create_engine(url, poolclass=NullPool), folder)
    else:
        with shared.connect() as connection:
            create_on(metadata_of(example), connection)


def answer(connection: Connection, sql: str, **values: object) -> list[tuple[object, ...]]:
    return [tuple(row) for row in connection.execute(text(sql), values)]


@pytest.mark.parametrize("code", REFUSED)
def test_what_is_refused(code: str, shared: Engine, citus: DatabaseServer, tmp_path: Path) -> None:
    with pytest.raises((DBAPIError, OperationError), match=said(code)):
        run_and_undo(page(code).breaks, shared, citus, tmp_path)


@pytest.mark.parametrize("code", RULES)
def test_what_is_taken(code: str, shared: Engine, citus: DatabaseServer, tmp_path: Path) -> None:
    run_and_undo(page(code).keeps, shared, citus, tmp_path)


@pytest.mark.parametrize("code", [code for code, rule in RULES.items() if rule.until])
def test_what_is_taken_by_now(
    code: str, shared: Engine, citus: DatabaseServer, tmp_path: Path
) -> None:
    """Limits of earlier versions, as their change logs tell."""
    run_and_undo(page(code).breaks, shared, citus, tmp_path)


def harm_of_an_included_column(engine: Engine) -> None:
    with engine.begin() as connection:
        rows = "INSERT INTO orders (id, customer_id) SELECT 1, i FROM generate_series(1, 20) AS i"
        # Rows of one shard exclude each other, those of several do not.
        connection.execute(text(f"{rows} WHERE i IN (1, 2)"))
        assert answer(connection, "SELECT count(*), count(DISTINCT id) FROM orders") == [(2, 1)]
    with engine.begin() as connection:
        connection.execute(text("DROP INDEX orders_id"))
        said = "creating unique indexes on non-partition columns is currently unsupported"
        with pytest.raises(DBAPIError, match=said):
            connection.execute(
                text("CREATE UNIQUE INDEX orders_id ON orders (id) INCLUDE (customer_id)")
            )


def harm_of_a_local_table_that_refers(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO customers VALUES (1)"))
        connection.execute(text("INSERT INTO notes VALUES (1)"))
    with engine.begin() as connection, pytest.raises(DBAPIError, match="violates foreign key"):
        connection.execute(text("INSERT INTO notes VALUES (2)"))
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM customers"))
        assert answer(connection, "SELECT customer_id FROM notes") == [(1,)]


def harm_of_an_identity(engine: Engine) -> None:
    for call in ("undistribute_table('orders')", "alter_distributed_table('orders', 'id')"):
        with engine.begin() as connection, pytest.raises(DBAPIError, match=said("CA012")):
            connection.execute(text(f"SELECT {call}"))


def harm_of_a_narrow_sequence(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO countries (name) VALUES ('Chile')"))
        insert = "INSERT INTO countries (name) VALUES ('Peru')"
        results = answer(connection, ON_WORKERS, command=insert)
        assert len(results) == 2
        for success, result in results:
            assert not success
            assert re.search(said("CA013"), str(result))
    with engine.begin() as connection, pytest.raises(DBAPIError, match="coming from a sequence"):
        connection.execute(text("ALTER TABLE countries ALTER id TYPE bigint"))


def harm_of_a_broken_rollup(engine: Engine) -> None:
    with engine.begin() as connection, pytest.raises(DBAPIError, match=said("CA118")):
        connection.execute(text("INSERT INTO clicks (user_id) VALUES (1)"))


HARMS: dict[str, Callable[[Engine], None]] = {
    "CA003": harm_of_an_included_column,
    "CA008": harm_of_a_local_table_that_refers,
    "CA012": harm_of_an_identity,
    "CA013": harm_of_a_narrow_sequence,
    "CA118": harm_of_a_broken_rollup,
}


def said(code: str) -> str:
    words = page(code).said
    assert words is not None
    return re.escape(words)


@pytest.mark.parametrize("code", HARMS)
def test_what_does_harm_later(code: str, plain: Engine, tmp_path: Path) -> None:
    run(page(code).breaks, plain, tmp_path)
    HARMS[code](plain)


def test_a_narrow_sequence_can_be_avoided(plain: Engine, tmp_path: Path) -> None:
    run(page("CA013").keeps, plain, tmp_path)
    with plain.begin() as connection:
        insert = "INSERT INTO countries (name) VALUES ('Peru')"
        results = answer(connection, ON_WORKERS, command=insert)
        assert [success for success, _ in results] == [True, True]


def test_an_identity_can_be_avoided(plain: Engine, tmp_path: Path) -> None:
    run(page("CA012").keeps, plain, tmp_path)
    with plain.begin() as connection:
        connection.execute(text("INSERT INTO orders (customer_id) VALUES (1)"))
        connection.execute(text("SELECT undistribute_table('orders')"))
        assert answer(connection, "SELECT customer_id, id > 0 FROM orders") == [(1, True)]


def test_distributing_rows_blocks_writers(plain: Engine, tmp_path: Path) -> None:
    """CA102: the server takes it, and keeps writers waiting until the transaction ends."""
    run(page("CA102").breaks, plain, tmp_path)
    with plain.begin() as connection:
        connection.execute(text("CREATE TABLE taps (user_id bigint)"))
        connection.execute(text("INSERT INTO taps VALUES (1)"))
    with plain.connect() as migration, plain.connect() as writer:
        migration.execute(text("SELECT create_distributed_table('taps', 'user_id')"))
        writer.execute(text("SET LOCAL lock_timeout TO '200ms'"))
        with pytest.raises(DBAPIError, match="lock timeout"):
            writer.execute(text("INSERT INTO taps VALUES (2)"))


def test_functions_in_sql_text(postgres: DatabaseServer, tmp_path: Path) -> None:
    """CA103: a server without Citus does not have them."""
    with postgres.database("empty") as url:
        engine = create_engine(url, poolclass=NullPool)
        with pytest.raises(DBAPIError, match=said("CA103")):
            run(page("CA103").breaks, engine, tmp_path)


def test_no_way_back(plain: Engine, tmp_path: Path) -> None:
    """CA104: the downgrade succeeds, and the next upgrade fails."""
    run(page("CA104").breaks, plain, tmp_path)
    config = configuration_of(plain.url, tmp_path)
    command.downgrade(config, "base")
    with plain.begin() as connection:
        assert answer(connection, "SELECT count(*) FROM clicks") == [(0,)]
    with pytest.raises(DBAPIError, match=said("CA104")):
        command.upgrade(config, "head")


def test_a_way_back(plain: Engine, tmp_path: Path) -> None:
    run(page("CA104").keeps, plain, tmp_path)
    config = configuration_of(plain.url, tmp_path)
    command.downgrade(config, "base")
    command.upgrade(config, "head")


def test_operations_one_after_the_other(plain: Engine, tmp_path: Path) -> None:
    """CA116: the migrations would pass, each in an upgrade of its own."""
    with pytest.raises(DBAPIError, match=said("CA116")):
        run(page("CA116").breaks, plain, tmp_path)


@pytest.mark.faults
def test_a_crash(breakable_citus: DatabaseServer, tmp_path: Path) -> None:
    """CA111: on a cluster of its own, which comes back."""
    with breakable_citus.database("empty") as url:
        engine = create_engine(url, poolclass=NullPool)
        with pytest.raises(DBAPIError, match=said(CRASHES)):
            run(page(CRASHES).breaks, engine, tmp_path)
        breakable_citus.nodes[0].start()
        run(page(CRASHES).keeps, engine, tmp_path)


def test_what_cannot_be_reversed(plain: Engine, tmp_path: Path) -> None:
    """CA105: the server takes it; its reverse is not known."""
    run(page("CA105").breaks, plain, tmp_path)
    with pytest.raises(OperationError, match="cannot be reversed"):
        UndistributeTableOp("clicks").reverse()


SPREAD = """
op.create_table(
    "clicks", sa.Column("k", sa.BigInteger()), sa.Column("at", sa.DateTime(timezone=True)),
    sa.Column("page", sa.Text()), sa.Column("other", sa.BigInteger()),
)
op.create_distributed_table("clicks", "k")
op.create_table(
    "hourly", sa.Column("k", sa.BigInteger()), sa.Column("hour", sa.DateTime(timezone=True)),
    sa.Column("n", sa.BigInteger()),
)
op.create_index(
    "key", "hourly", ["k", "hour"], unique=True, postgresql_nulls_not_distinct=True
)
op.create_distributed_table("hourly", "k", colocate_with="clicks")
"""
ROLLUPS = """
from citus_analytics.migrations import RollupSpec, TargetSpec

ROLLUPS = RollupSpec(
    source="clicks", key="k", time="at", columns={},
    targets=(
        TargetSpec(
            rollup="h", table="hourly", every="1 hour", bucket="hour", by={"k": "key"}, rows="n",
        ),
    ),
)
"""


@pytest.mark.parametrize(
    ("old", "new", "refused"),
    [
        ("", "", False),
        ('"at", sa.DateTime(timezone=True)', '"at", sa.DateTime()', True),
        ('["k", "hour"]', '["k", "hour", "n"]', True),
        ('"clicks", "k")', '"clicks", "other")', True),
        ('op.create_distributed_table("hourly", "k", colocate_with="clicks")', "", True),
        (', colocate_with="clicks"', ', colocate_with="none"', True),
        (
            'op.create_distributed_table("hourly", "k", colocate_with="clicks")',
            'op.create_reference_table("hourly")',
            True,
        ),
        (
            'sa.Column("n", sa.BigInteger())',
            'sa.Column("n", sa.BigInteger(), sa.Computed("1", persisted=True))',
            True,
        ),
        ('sa.Column("n", sa.BigInteger())', 'sa.Column("m", sa.BigInteger())', True),
        ('"at", sa', '"when", sa', True),
    ],
)
def test_what_rollups_need(
    citus: DatabaseServer, tmp_path: Path, old: str, new: str, refused: bool
) -> None:
    """CA119: the linter refuses what the server refuses, and nothing else."""
    assert old in SPREAD
    source = migration(f"{SPREAD.replace(old, new)}\nop.create_rollups(ROLLUPS)", top=ROLLUPS)
    source = source.replace("from alembic import op", "from citus_analytics.migrations import op")
    folder = write_migrations(tmp_path, source)
    found = {one.code for one in lint_migrations(folder) if one.severity == "error"}
    with citus.database("empty") as url:
        try:
            command.upgrade(configuration_of(url, folder), "head")
        except (DBAPIError, OperationError):
            said = True
        else:
            said = False
    assert (found, said) == ({"CA119"} if refused else set(), refused)
