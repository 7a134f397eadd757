"""Autogenerate: primary keys and dimensions that change, and what a check says of others."""

from __future__ import annotations

import itertools
import logging
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest
from alembic.autogenerate.rewriter import Rewriter
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
)

from citus_analytics.errors import OperationError
from citus_analytics.lint import lint_migrations
from citus_analytics.migrations import CitusOperation, CreateDistributedTableOp
from citus_analytics.rollups.declare import Rollup, count
from citus_analytics.schema import Distributed, Local, Reference
from tests.autogenerate import Application, differences, migrated
from tests.servers import ON_CITUS_ONLY, execute, query_text

if TYPE_CHECKING:
    from alembic.operations.ops import MigrateOperation

    from tests.servers import DatabaseServer


def shop(*key: str, parent: bool = False) -> MetaData:
    metadata = MetaData()
    columns = [
        Column(name, BigInteger, nullable=name not in ("tenant", *key))
        for name in dict.fromkeys(["tenant", *key, "other"])
    ]
    keys = [PrimaryKeyConstraint(*key)] if key else []
    Table("orders", metadata, *columns, *keys, Distributed("tenant"))
    if parent:
        Table(
            "lines",
            metadata,
            Column("tenant", BigInteger),
            Column("order", BigInteger),
            Distributed("tenant", colocate_with="orders"),
            ForeignKeyConstraint(["tenant", "order"], ["orders.tenant", "orders.id"]),
        )
    return metadata


KEYS = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'orders_pkey'"


def test_a_primary_key_changes_there_and_back(application: Application) -> None:
    migrated(application, shop("tenant", "id", "part"))
    execute(application.url, "INSERT INTO orders (tenant, id, part) VALUES (1, 1, 1), (1, 2, 1)")
    migrated(application, shop("tenant", "id"))
    assert query_text(application.url, KEYS) == "PRIMARY KEY (tenant, id)"
    execute(application.url, "DELETE FROM orders")
    application.downgrade()
    assert query_text(application.url, KEYS) == "PRIMARY KEY (tenant, id, part)"
    assert differences(application.url, shop("tenant", "id", "part")) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((), ("tenant", "id")),
        (("tenant", "id"), ()),
        (("tenant", "id"), ("id", "tenant")),
        (("tenant", "id", "part"), ("tenant", "part")),
    ],
)
def test_primary_keys_of_all_shapes(
    before: tuple[str, ...], after: tuple[str, ...], application: Application
) -> None:
    migrated(application, shop(*before))
    migrated(application, shop(*after))
    application.downgrade()
    assert differences(application.url, shop(*before)) == []
    application.downgrade("base")


def test_a_primary_key_that_is_referred_to(application: Application) -> None:
    migrated(application, shop("tenant", "id", parent=True))
    bigger = shop("tenant", "id", parent=True)
    bigger.tables["orders"].append_column(Column("part", BigInteger))
    migrated(application, bigger)
    # The other order of the key is another key, and the foreign key comes back on it.
    turned = shop("id", "tenant", parent=True)
    migrated(application, turned)
    application.downgrade()
    assert differences(application.url, bigger) == []


def test_a_check_says_nothing_of_tables_that_are_nobodys(
    application: Application, caplog: pytest.LogCaptureFixture
) -> None:
    metadata = MetaData()
    clicks = Table(
        "clicks",
        metadata,
        Column("user_id", BigInteger),
        Column("at", DateTime(timezone=True)),
        Distributed("user_id"),
    )
    Rollup("hourly", clicks, time="at", every="1 hour", measures={"n": count()})
    Table(
        "days",
        metadata,
        Column("at", DateTime(timezone=True)),
        postgresql_partition_by="RANGE (at)",
    )
    migrated(application, metadata)
    execute(
        application.url,
        "CREATE TABLE days_2026 PARTITION OF days FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
        "CREATE EXTENSION pg_stat_statements",
    )
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert differences(application.url, metadata) == []
    assert "Detected" not in caplog.text


@ON_CITUS_ONLY
def test_a_rewriter_changes_what_autogenerate_writes(application: Application) -> None:
    writer = Rewriter()

    @writer.rewrites(CreateDistributedTableOp)
    def in_six_shards(
        context: object, revision: object, operation: CreateDistributedTableOp
    ) -> MigrateOperation:
        operation.shard_count = 6
        return operation

    @writer.rewrites(CitusOperation)
    def leave(context: object, revision: object, operation: CitusOperation) -> MigrateOperation:
        return operation

    metadata = MetaData()
    Table("orders", metadata, Column("tenant", BigInteger), Distributed("tenant"))
    Table("plans", metadata, Column("id", BigInteger), Reference())
    assert "shard_count=6" in application.revise(metadata, process_revision_directives=writer)
    application.upgrade()
    shards = "SELECT shard_count FROM citus_tables WHERE table_name = 'orders'::regclass"
    assert query_text(application.url, shards) == "6"
    application.downgrade()


SLOW = """
from alembic import op
revision = "slow"
down_revision = None

def upgrade():
    op.execute("CREATE TABLE once (id int)")
    with op.get_context().autocommit_block():
        op.execute("SELECT pg_sleep(0.5)")
    op.execute("INSERT INTO once VALUES (1)")
"""


def test_migrations_that_commit_on_their_way_run_one_after_the_other(
    application: Application,
) -> None:
    (application.folder / "versions" / "slow.py").write_text(SLOW)
    errors: list[subprocess.CalledProcessError] = []

    def upgrade(delay: float) -> None:
        time.sleep(delay)
        try:
            # Alembic's environment is global to a process: another program runs the second one.
            application.upgrade_in_a_process()
        except subprocess.CalledProcessError as error:
            errors.append(error)

    threads = [threading.Thread(target=upgrade, args=(delay,)) for delay in (0.0, 0.1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert query_text(application.url, "SELECT count(*) FROM once") == "1"


def partitioned(*, key: bool, shard_count: int = 4) -> MetaData:
    metadata = MetaData()
    Table(
        "days",
        metadata,
        Column("tenant", BigInteger, primary_key=True),
        Column("id", BigInteger, primary_key=True),
        Column("at", BigInteger, primary_key=True),
        Distributed("tenant", shard_count=shard_count),
        postgresql_partition_by="RANGE (at)",
    )
    columns = ["days.tenant", "days.id", "days.at"]
    for name in ("notes", "late_notes"):
        Table(
            name,
            metadata,
            Column("tenant", BigInteger),
            Column("id", BigInteger),
            Column("at", BigInteger),
            *([ForeignKeyConstraint(["tenant", "id", "at"], columns)] if key else []),
            Distributed("tenant", colocate_with="days"),
            postgresql_partition_by=None if name == "notes" else "RANGE (at)",
        )
    return metadata


def test_a_foreign_key_to_and_from_partitioned_tables(application: Application) -> None:
    """PostgreSQL keeps a copy of it for each partition, which is nobody's to drop."""
    migrated(application, partitioned(key=True))
    execute(
        application.url,
        "CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM (1) TO (2)",
        "CREATE TABLE days_2 PARTITION OF days FOR VALUES FROM (2) TO (3)",
        "CREATE TABLE late_1 PARTITION OF late_notes FOR VALUES FROM (1) TO (2)",
        "INSERT INTO days VALUES (1, 1, 1), (1, 1, 2)",
        "INSERT INTO notes VALUES (1, 1, 1), (1, 1, 2)",
        "INSERT INTO late_notes VALUES (1, 1, 1)",
    )
    history = [
        partitioned(key=True),
        partitioned(key=True, shard_count=6),
        partitioned(key=False, shard_count=6),
        MetaData(),
    ]
    for before, after in itertools.pairwise(history):
        migrated(application, after)
        application.downgrade()
        assert differences(application.url, before) == []
        application.upgrade()
    application.downgrade("base")


def test_a_foreign_key_that_is_not_valid_stays_so(application: Application) -> None:
    """What it would refuse may be there: it comes back after the tables have moved, as it was."""
    keys = "SELECT string_agg(pg_get_constraintdef(oid), '') FROM pg_constraint WHERE contype = 'f'"
    migrated(application, partitioned(key=False))
    execute(
        application.url,
        "INSERT INTO notes VALUES (1, 1, 1)",
        "ALTER TABLE notes ADD CONSTRAINT notes_tenant_id_at_fkey FOREIGN KEY (tenant, id, at) "
        "REFERENCES days (tenant, id, at) ON DELETE CASCADE NOT VALID",
    )
    before = query_text(application.url, keys)
    assert before.endswith("NOT VALID")
    metadata = partitioned(key=False, shard_count=6)
    notes = metadata.tables["notes"]
    notes.append_constraint(
        ForeignKeyConstraint(
            ["tenant", "id", "at"], ["days.tenant", "days.id", "days.at"], ondelete="CASCADE"
        )
    )
    migrated(application, metadata)
    assert query_text(application.url, keys) == before
    application.downgrade()
    assert query_text(application.url, keys) == before


def typed(column_type: type[Integer], *, shard_count: int | None = None) -> MetaData:
    metadata = MetaData()
    Table("plans", metadata, Column("id", BigInteger, primary_key=True), Reference())
    Table(
        "orders",
        metadata,
        Column("tenant", column_type, primary_key=True),
        Column("id", BigInteger, primary_key=True),
        Column("plan", BigInteger, ForeignKey("plans.id"), comment="what was agreed"),
        Distributed("tenant", shard_count=shard_count),
        comment="what is sold",
    )
    Table(
        "lines",
        metadata,
        Column("tenant", column_type),
        Column("order", BigInteger),
        Distributed("tenant", colocate_with="orders"),
        ForeignKeyConstraint(["tenant", "order"], ["orders.tenant", "orders.id"]),
    )
    return metadata


@pytest.mark.parametrize("shard_count", [None, 6])
def test_the_type_of_a_distribution_column_changes(
    shard_count: int | None, server: DatabaseServer, application: Application
) -> None:
    before = typed(Integer, shard_count=shard_count)
    migrated(application, before)
    execute(
        application.url,
        "INSERT INTO plans VALUES (1)",
        "INSERT INTO orders SELECT i, 1, 1 FROM generate_series(1, 20) AS i",
        "INSERT INTO lines SELECT i, 1 FROM generate_series(1, 20) AS i",
    )
    migrated(application, typed(BigInteger, shard_count=shard_count))
    # What is written without Citus is not the plan that Citus needs, and the linter says so.
    found = {finding.code for finding in lint_migrations(application.folder)}
    assert found == (set() if server.kind == "citus" else {"CA108"})
    application.downgrade()
    assert differences(application.url, before) == []
    assert query_text(application.url, "SELECT count(*) FROM orders JOIN lines USING (tenant)") == (
        "20"
    )
    application.upgrade()
    application.downgrade("base")


def test_unnamed_constraints_get_the_names_that_postgresql_gives(application: Application) -> None:
    def shop(*constraints: UniqueConstraint | ForeignKeyConstraint, more: bool = False) -> MetaData:
        metadata = MetaData()
        columns = [Column(name, BigInteger) for name in ("tenant", "id", "n" * 60)]
        if more:
            columns.append(Column("more", BigInteger))
        Table("plans", metadata, Column("id", BigInteger, primary_key=True), Reference())
        Table("rates", metadata, Column("id", BigInteger, primary_key=True), Reference())
        Table("orders", metadata, *columns, *constraints, Distributed("tenant"))
        Table("orders_tenant_more_key", metadata, Column("id", BigInteger), Local())
        return metadata

    migrated(application, shop())
    constraints = (
        UniqueConstraint("tenant", "id"),
        UniqueConstraint("tenant", "n" * 60),
        UniqueConstraint("tenant", "more"),
        ForeignKeyConstraint(["id"], ["plans.id"]),
        ForeignKeyConstraint(["id"], ["rates.id"]),
    )
    migrated(application, shop(*constraints, more=True))
    names = "SELECT string_agg(conname, ' ' ORDER BY conname) FROM pg_constraint WHERE conrelid = "
    given = query_text(application.url, f"{names} 'orders'::regclass")
    assert given.split() == [
        "orders_id_fkey",
        "orders_id_fkey1",
        "orders_tenant_id_key",
        "orders_tenant_more_key1",
        f"orders_tenant_{'n' * 45}_key",
    ]
    application.downgrade()
    assert differences(application.url, shop()) == []
    application.downgrade("base")


# Alembic writes autoincrement=True, and warns of it when the migration runs.
@pytest.mark.filterwarnings("ignore:autoincrement and existing_autoincrement")
@ON_CITUS_ONLY
def test_other_changes_of_columns_that_citus_refuses(application: Application) -> None:
    def shop(kind: type[Integer], default: str | None) -> MetaData:
        metadata = MetaData()
        columns = [Column("tenant", BigInteger, primary_key=True, server_default=default)]
        Table("plans", metadata, Column("id", kind, primary_key=True), Reference())
        Table("orders", metadata, *columns, Column("n", kind), Distributed("tenant"))
        Table("rates", metadata, Column("tenant", BigInteger), Column("n", kind))
        return metadata

    before, after = shop(Integer, None), shop(BigInteger, "7")
    migrated(application, before)
    # Undeclared, and distributed by hand.
    execute(
        application.url,
        "SELECT create_distributed_table('rates', 'n')",
        "INSERT INTO plans SELECT FROM generate_series(1, 5)",
    )
    migrated(application, after)
    assert {one.code for one in lint_migrations(application.folder)} == {"CA013"}
    execute(application.url, "INSERT INTO plans DEFAULT VALUES")
    assert query_text(application.url, "SELECT max(id) FROM plans") == "6"
    application.downgrade()
    assert differences(application.url, before) == []
    application.downgrade("base")


@ON_CITUS_ONLY
def test_a_table_with_an_identity_is_refused_before_anything_is_written(
    application: Application,
) -> None:
    def shop(kind: type[Integer]) -> MetaData:
        metadata = MetaData()
        columns = [Column("tenant", kind), Column("id", BigInteger, Identity())]
        Table("orders", metadata, *columns, Distributed("tenant"))
        return metadata

    migrated(application, shop(Integer))
    with pytest.raises(OperationError, match=r"orders would have .* INSERT \.\.\. SELECT"):
        application.revise(shop(BigInteger))
