"""Several revisions in one transaction, in whatever order Citus likes least."""

from __future__ import annotations

import io
import itertools
from typing import TYPE_CHECKING

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import NullPool, create_engine

from tests.operations import rows
from tests.programs import psql
from tests.servers import ON_CITUS_ONLY, execute, query_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import URL

    from tests.servers import DatabaseServer

TABLES = (
    "CREATE TABLE events (tenant bigint NOT NULL, id bigint NOT NULL, plan bigint, n int, a int)",
    "CREATE TABLE plans (id bigint PRIMARY KEY)",
    "SELECT create_distributed_table('events', 'tenant')",
    "SELECT create_reference_table('plans')",
    "INSERT INTO plans VALUES (1)",
    "INSERT INTO events SELECT i, i, 1, 1, 1 FROM generate_series(1, 50) AS i",
)

# What Citus runs on several connections to a node, there and back.
PARALLEL = {
    "index": (
        "op.create_index('events_n', 'events', ['n'])",
        "op.drop_index('events_n', 'events')",
    ),
    "add column": (
        "op.add_column('events', sa.Column('more', sa.Integer()))",
        "op.drop_column('events', 'more')",
    ),
    "drop column": (
        "op.drop_column('events', 'a')",
        "op.add_column('events', sa.Column('a', sa.Integer()))",
    ),
    "type": (
        "op.alter_column('events', 'n', type_=sa.BigInteger())",
        "op.alter_column('events', 'n', type_=sa.Integer())",
    ),
    "not null": (
        "op.alter_column('events', 'n', nullable=False)",
        "op.alter_column('events', 'n', nullable=True)",
    ),
    "unique": (
        "op.create_unique_constraint('events_key', 'events', ['tenant', 'id'])",
        "op.drop_constraint('events_key', 'events')",
    ),
    "update": (
        "op.execute('UPDATE events SET n = n + 1')",
        "op.execute('UPDATE events SET n = n - 1')",
    ),
}

# What Citus refuses afterwards, unless the transaction is in sequential mode.
SEQUENTIAL = {
    "foreign key to a reference table": (
        "op.create_foreign_key('events_plan', 'events', 'plans', ['plan'], ['id'])",
        "op.drop_constraint('events_plan', 'events')",
    ),
    "distributed table": (
        "op.create_table('clicks', sa.Column('tenant', sa.BigInteger()))\n"
        "    op.create_distributed_table('clicks', 'tenant', colocate_with='events')",
        "op.drop_table('clicks')",
    ),
    "enum": (
        "op.create_table('moods', sa.Column('tenant', sa.BigInteger()), "
        "sa.Column('mood', sa.Enum('good', 'bad', name='mood')))\n"
        "    op.create_distributed_table('moods', 'tenant')",
        "op.drop_table('moods')\n    op.execute('DROP TYPE mood')",
    ),
    "function and trigger": (
        "op.execute('CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN RETURN NULL; END$$')\n"
        "    op.execute('SET LOCAL citus.enable_unsafe_triggers TO on')\n"
        "    op.execute('CREATE TRIGGER g AFTER INSERT ON events "
        "FOR EACH STATEMENT EXECUTE FUNCTION f()')",
        "op.execute('SET LOCAL citus.enable_unsafe_triggers TO on')\n"
        "    op.execute('DROP TRIGGER g ON events')\n    op.execute('DROP FUNCTION f()')",
    ),
    "number of shards": (
        "op.alter_distributed_table('events', shard_count=6)",
        "op.alter_distributed_table('events', shard_count=4)",
    ),
    "local table": (
        "op.undistribute_table('events')",
        "op.create_distributed_table('events', 'tenant')",
    ),
}

ENVIRONMENT = """
from citus_analytics.migrations import run_environment
run_environment([])
"""
REVISION = """
import sqlalchemy as sa
from alembic import op
revision = {revision!r}
down_revision = {down_revision!r}

def upgrade():
    {upgrade}

def downgrade():
    {downgrade}
"""


@pytest.fixture(scope="module")
def shop(server: DatabaseServer) -> Iterator[URL]:
    with server.database("empty") as url:
        execute(url, *TABLES)
        yield url


def history(folder: Path, url: URL, *changes: tuple[str, str]) -> Config:
    """Write revisions, each from its upgrade and downgrade; return how to run them."""
    (folder / "versions").mkdir()
    (folder / "env.py").write_text(ENVIRONMENT)
    for number, (upgrade, downgrade) in enumerate(changes, start=1):
        text = REVISION.format(
            revision=f"r{number}",
            down_revision=f"r{number - 1}" if number > 1 else None,
            upgrade=upgrade,
            downgrade=downgrade,
        )
        (folder / "versions" / f"r{number}.py").write_text(text)
    config = Config()
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "os")
    config.attributes["url"] = url
    return config


def schema(url: URL) -> list[tuple[object, ...]]:
    with create_engine(url, poolclass=NullPool).connect() as connection:
        return rows(
            connection,
            "SELECT relname, attname, attnotnull, atttypid::regtype FROM pg_class AS c "
            "JOIN pg_attribute ON attrelid = c.oid WHERE relnamespace = 'public'::regnamespace "
            "AND attnum > 0 AND NOT attisdropped AND relname !~ '^alembic|_[0-9]+$' ORDER BY 1, 2",
        )


@ON_CITUS_ONLY
@pytest.mark.parametrize(("parallel", "sequential"), list(itertools.product(PARALLEL, SEQUENTIAL)))
def test_revisions_that_pass_one_by_one_pass_together(
    parallel: str, sequential: str, shop: URL, tmp_path: Path
) -> None:
    before = schema(shop)
    config = history(tmp_path, shop, PARALLEL[parallel], SEQUENTIAL[sequential])
    command.upgrade(config, "head")
    assert schema(shop) != before or parallel == "update"
    command.downgrade(config, "base")
    # A downgrade runs the two the other way round, so the other order is for the way down.
    (tmp_path / "turned").mkdir()
    turned = history(tmp_path / "turned", shop, SEQUENTIAL[sequential], PARALLEL[parallel])
    command.upgrade(turned, "head")
    command.downgrade(turned, "base")
    assert schema(shop) == before


BLOCK = (
    "with op.get_context().autocommit_block():\n        op.execute('SELECT 1')\n"
    f"    {PARALLEL['index'][0]}\n    {SEQUENTIAL['foreign key to a reference table'][0]}",
    f"{PARALLEL['index'][1]}\n    {SEQUENTIAL['foreign key to a reference table'][1]}",
)


@ON_CITUS_ONLY
def test_it_holds_in_the_transaction_after_an_autocommit_block(shop: URL, tmp_path: Path) -> None:
    config = history(tmp_path, shop, BLOCK)
    command.upgrade(config, "head")
    command.downgrade(config, "base")


@ON_CITUS_ONLY
def test_it_holds_in_a_script(server: DatabaseServer, empty_database: URL, tmp_path: Path) -> None:
    execute(empty_database, *TABLES)
    changes = (BLOCK, PARALLEL["unique"], SEQUENTIAL["distributed table"])
    config = history(tmp_path, empty_database, *changes)
    for run in (command.upgrade, command.downgrade):
        config.output_buffer = script = io.StringIO()
        run(config, "head" if run is command.upgrade else "head:base", sql=True)
        psql(server, empty_database, script.getvalue())
    assert query_text(empty_database, "SELECT count(*) FROM alembic_version") == "0"


OTHER_ENVIRONMENT = """
from alembic import context
from sqlalchemy import NullPool, create_engine
from citus_analytics.migrations import sequential_transactions
with create_engine(context.config.attributes["url"], poolclass=NullPool).connect() as connection:
    sequential_transactions(connection)
    context.configure(connection=connection, transaction_per_migration={per_migration})
    with context.begin_transaction():
        context.run_migrations()
"""


@ON_CITUS_ONLY
@pytest.mark.parametrize("per_migration", [False, True])
def test_it_holds_in_another_environment(per_migration: bool, shop: URL, tmp_path: Path) -> None:
    config = history(tmp_path, shop, BLOCK)
    (tmp_path / "env.py").write_text(OTHER_ENVIRONMENT.format(per_migration=per_migration))
    command.upgrade(config, "head")
    command.downgrade(config, "base")


@ON_CITUS_ONLY
def test_it_holds_in_a_transaction_of_the_caller(shop: URL, tmp_path: Path) -> None:
    changes = (PARALLEL["index"], SEQUENTIAL["foreign key to a reference table"])
    config = history(tmp_path, shop, *changes)
    with create_engine(shop, poolclass=NullPool).connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        command.downgrade(config, "base")
        connection.rollback()


def test_servers_without_citus_take_the_same_script(
    server: DatabaseServer, empty_database: URL, tmp_path: Path
) -> None:
    config = history(tmp_path, empty_database, ("op.execute('SELECT 1')", "pass"))
    config.output_buffer = script = io.StringIO()
    command.upgrade(config, "head", sql=True)
    psql(server, empty_database, script.getvalue())
    assert query_text(empty_database, "SELECT version_num FROM alembic_version") == "r1"
