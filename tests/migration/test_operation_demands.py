"""What operations need of the transaction and of the version of Citus, and how they refuse."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import NullPool, create_engine, text

from citus_analytics.errors import OperationError
from citus_analytics.github.models import Base
from citus_analytics.migrations import (
    CitusOperation,
    CreateDistributedTableConcurrentlyOp,
    CreateDistributedTableOp,
    CreateReferenceTableOp,
    CreateRollupsOp,
    DistributeSchemaOp,
    DropRollupsOp,
)
from citus_analytics.migrations.blocks import Extension, Guarded
from citus_analytics.rollups.declare import specs_of
from citus_analytics.schema import Distributed
from tests.operations import catalogs, rows, run, script_of
from tests.programs import psql
from tests.servers import ON_CITUS_ONLY, execute

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection

    from citus_analytics.migrations import Policy
    from citus_analytics.migrations.blocks import Step
    from tests.servers import DatabaseServer

CONCURRENTLY = CreateDistributedTableConcurrentlyOp("clicks", "id")
SPEC, _ = specs_of(Base.metadata)
SEVERAL_STATEMENTS = [
    CreateRollupsOp(SPEC),
    DropRollupsOp(SPEC, keep_state=True),
]
BY_ID = Distributed(column="id")


@dataclass
class FromTheFuture(CitusOperation):
    """An operation that no Citus has yet."""

    # ruff: noqa: D102
    function: ClassVar = "travel"
    subject = "in time"

    def steps(self) -> tuple[Step, ...]:
        future = Extension("citus", (99, 0))
        step = Guarded(
            call="travel(back=True)",
            body="RAISE division_by_zero;",
            otherwise="nobody travels",
            needs=(future,),
        )
        return (step,)


@pytest.fixture
def clicks(empty_database: URL) -> Iterator[Connection]:
    """A connection to a table that is local."""
    with create_engine(empty_database, poolclass=NullPool).connect() as connection:
        connection.execute(text("CREATE TABLE clicks (id int PRIMARY KEY, n int)"))
        connection.commit()
        yield connection


def test_what_commits_on_its_way_refuses_in_a_transaction(clicks: Connection) -> None:
    before = catalogs(clicks)
    message = (
        r"^create_distributed_table_concurrently\('clicks'\) commits on its way, .* Put it into "
        r"`with op\.get_context\(\)\.autocommit_block\(\):`, which commits"
    )
    with pytest.raises(OperationError, match=message):
        run(clicks, CONCURRENTLY)
    clicks.rollback()
    assert catalogs(clicks) == before


@pytest.mark.parametrize("policy", ["auto", "skip"])
def test_it_refuses_whatever_the_policy(policy: Policy, clicks: Connection) -> None:
    with pytest.raises(OperationError, match="commits on its way"):
        run(clicks, CONCURRENTLY, citus=policy)


def test_it_runs_in_an_autocommit_block(clicks: Connection) -> None:
    context = MigrationContext.configure(clicks, opts={})
    with context.begin_transaction(), context.autocommit_block():
        Operations(context).invoke(CONCURRENTLY)


def test_its_script_runs_in_an_autocommit_block(server: DatabaseServer, clicks: Connection) -> None:
    output = io.StringIO()
    opts = {"as_sql": True, "output_buffer": output}
    context = MigrationContext.configure(dialect_name="postgresql", opts=opts)
    with context.begin_transaction():
        context.execute("CREATE TABLE before_it (id int)")
        with context.autocommit_block():
            Operations(context).invoke(CONCURRENTLY)
        context.execute("CREATE TABLE behind_it (id int)")
    psql(server, clicks.engine.url, output.getvalue())
    assert len(rows(clicks, "SELECT FROM pg_class WHERE relname ~ '^be(fore|hind)_it$'")) == 2


def test_the_script_refuses_in_a_transaction_and_runs_outside(
    server: DatabaseServer, clicks: Connection
) -> None:
    url, script = clicks.engine.url, script_of(CONCURRENTLY)
    with pytest.raises(AssertionError, match="ERROR:  create_distributed_table_concurrently"):
        psql(server, url, f"BEGIN;\n{script}\nCOMMIT;")
    psql(server, url, script)


@pytest.mark.parametrize("operation", SEVERAL_STATEMENTS, ids=lambda o: str(o.function))
def test_several_statements_refuse_without_a_transaction(
    operation: CitusOperation, server: DatabaseServer, empty_database: URL
) -> None:
    engine = create_engine(empty_database, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    message = rf"^{operation.function}\('github_events'\) needs a transaction, but"
    with engine.connect() as connection, pytest.raises(OperationError, match=message):
        run(connection, operation)
    with pytest.raises(AssertionError, match=f"ERROR:  {operation.function}.* needs a transaction"):
        psql(server, empty_database, script_of(operation))


def test_the_script_of_several_statements_runs_in_a_transaction(
    server: DatabaseServer, database: URL
) -> None:
    psql(server, database, f"BEGIN;\n{script_of(*SEVERAL_STATEMENTS[::-1])}COMMIT;")
    with create_engine(database, poolclass=NullPool).connect() as connection:
        functions = "SELECT FROM pg_proc WHERE proname = 'rollup_http_request'"
        assert len(rows(connection, functions)) == 1


@ON_CITUS_ONLY
def test_a_citus_that_is_too_old(server: DatabaseServer, clicks: Connection) -> None:
    message = r"^travel\(back=True\) needs Citus 99\.0, this server has \d+\.\d+$"
    with pytest.raises(OperationError, match=message):
        run(clicks, FromTheFuture())
    clicks.rollback()
    run(clicks, FromTheFuture(), citus="skip")
    with pytest.raises(AssertionError, match=r"ERROR:  travel\(back=True\) needs Citus 99"):
        psql(server, clicks.engine.url, script_of(FromTheFuture()))


@pytest.fixture
def old_database(
    single_node_citus: DatabaseServer, request: pytest.FixtureRequest
) -> Iterator[URL]:
    """A database with the extension as an old version of Citus has created it."""
    # Other processes of the run have the same server.
    url = single_node_citus.nodes[0].url_for(f"old_{os.getpid()}")
    execute(
        single_node_citus.url,
        f"CREATE DATABASE {url.database}",
        f"ALTER DATABASE {url.database} SET citus.enable_version_checks = off",
    )
    execute(url, f"CREATE EXTENSION citus VERSION '{request.param}'")
    yield url
    single_node_citus.drop_database(url)


@pytest.mark.parametrize(
    ("old_database", "operation", "message"),
    [
        (
            "11.3-2",
            CreateDistributedTableOp.of("t", Distributed(column=None)),
            r"create_distributed_table\(column=None\) needs Citus 12\.0, this server has 11\.3",
        ),
        (
            "11.3-2",
            DistributeSchemaOp("public"),
            r"distribute_schema needs Citus 12\.0, this server has 11\.3",
        ),
        (
            "11.0-4",
            CONCURRENTLY,
            r"create_distributed_table_concurrently needs Citus 11\.1, this server has 11\.0",
        ),
        (
            "10.2-5",
            CreateReferenceTableOp("t"),
            r"create_reference_table needs Citus 11\.0, this server has 10\.2",
        ),
    ],
    indirect=["old_database"],
)
def test_operations_that_an_old_citus_does_not_know(
    old_database: URL, operation: CitusOperation, message: str
) -> None:
    engine = create_engine(old_database, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection, pytest.raises(OperationError, match=f"^{message}$"):
        run(connection, operation)


@ON_CITUS_ONLY
def test_operations_of_all_kinds_in_one_transaction(clicks: Connection) -> None:
    for name in ("beside", "countries", "late"):
        clicks.execute(text(f"CREATE TABLE {name} (id int PRIMARY KEY, n int)"))
        clicks.execute(text(f"CREATE INDEX ON {name} (n)"))
        if name == "countries":
            run(clicks, CreateReferenceTableOp(name))
        else:
            run(clicks, CreateDistributedTableOp.of(name, BY_ID))
        clicks.execute(text(f"ALTER TABLE {name} ADD COLUMN later int"))
        clicks.execute(text(f"CREATE INDEX ON {name} (later)"))
    run(clicks, CreateDistributedTableOp.of("clicks", BY_ID))
    clicks.execute(text("ALTER TABLE clicks ADD FOREIGN KEY (n) REFERENCES countries"))
    clicks.execute(text("CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'"))
    run(clicks, *(CreateDistributedTableOp.of(t, BY_ID).reverse() for t in ("beside", "late")))
    clicks.execute(
        text("CREATE VIEW both_of_them AS SELECT id, c.n FROM clicks AS c JOIN late USING (id)")
    )
    clicks.commit()
    kinds = "SELECT table_name::text, citus_table_type FROM citus_tables ORDER BY 1"
    assert rows(clicks, kinds) == [("clicks", "distributed"), ("countries", "reference")]


def test_a_policy_that_is_none(clicks: Connection) -> None:
    with pytest.raises(OperationError, match=r"one of auto, require, skip; 'perhaps'"):
        run(clicks, CONCURRENTLY, citus="perhaps")  # type: ignore[arg-type]
