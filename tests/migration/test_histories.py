"""Revisions of all kinds make the same schema one by one and together, upwards and downwards."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from sqlalchemy import NullPool, create_engine

from citus_analytics.schema import Distributed
from citus_analytics.sql import qualify
from tests.autogenerate import Application, differences
from tests.operations import rows
from tests.random_models import SCHEMAS, RandomTable, Tables, applications, metadata_of
from tests.servers import ON_CITUS_ONLY, execute

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL

    from tests.servers import DatabaseServer

pytestmark = [ON_CITUS_ONLY, pytest.mark.faults]

Kind: TypeAlias = Literal[
    "index", "column", "default", "not null", "update", "unique", "function", "table", "shards"
]

HEAD = """
import sqlalchemy as sa
from citus_analytics.migrations import op
revision = {revision!r}
down_revision = {down_revision!r}
"""


@st.composite
def changes(
    draw: st.DrawFn, tables: Tables, number: int, *, first: bool
) -> tuple[list[str], list[str]]:
    """Draw the lines of a revision that somebody has written by hand: upwards and downwards.

    What goes back to a fixed state is drawn for the first of them only.
    """
    up: list[str] = []
    down: list[str] = []
    drawn = draw(st.lists(st.sampled_from(tables), min_size=1, max_size=3)) if tables else []
    seen = set()
    for table in drawn:
        kinds: list[Kind] = ["index", "column", "update", "unique", "function", "table"]
        if first:
            kinds += ["default", "not null"]
        if first and _can_change_shards(table, tables):
            kinds += ["shards", "shards"]
        kind = draw(st.sampled_from(kinds))
        if (table.name, kind) in seen:
            continue
        seen.add((table.name, kind))
        there, back = _change(kind, table, f"{kind} {number} of {table.name}")
        up.append(there)
        down.insert(0, back)
    return up, down


def _can_change_shards(table: RandomTable, tables: Tables) -> bool:
    """Whether nobody is colocated with the table by a declaration or a foreign key."""
    return (
        isinstance(table.distribution, Distributed)
        and table.distribution.column is not None
        and table.distribution.colocate_with is None
        and table.refers_to is None
        and not any(
            other.refers_to == table.key
            or (
                isinstance(other.distribution, Distributed)
                and other.distribution.colocate_with == table.name
            )
            for other in tables
        )
    )


def _change(kind: Kind, table: RandomTable, name: str) -> tuple[str, str]:
    where = f"{table.name!r}, schema={table.schema!r}"
    match kind:
        case "index":
            columns = "['note', 'id']"
            return (
                f"op.create_index({name!r}, {table.name!r}, {columns}, schema={table.schema!r})",
                f"op.drop_index({name!r}, {where})",
            )
        case "column":
            return (
                f"op.add_column({table.name!r}, sa.Column({name!r}, sa.Text()), "
                f"schema={table.schema!r})",
                f"op.drop_column({table.name!r}, {name!r}, schema={table.schema!r})",
            )
        case "default":
            alter = f"op.alter_column({table.name!r}, 'note', schema={table.schema!r}, "
            return f"{alter}server_default={name!r})", f"{alter}server_default=None)"
        case "not null":
            alter = f"op.alter_column({table.name!r}, 'note', schema={table.schema!r}, nullable="
            return f"{alter}False)", f"{alter}True)"
        case "update":
            update = (
                f"op.execute(sa.table({table.name!r}, sa.column('note'), schema={table.schema!r})"
                ".update().values(note={!r}))"
            )
            return update.format("there"), update.format("back")
        case "unique":
            # Not those of the primary key: Alembic forgets a second key of the same columns.
            columns = "['tenant', 'id', 'note']"
            return (
                f"op.create_unique_constraint({name!r}, {table.name!r}, {columns}, "
                f"schema={table.schema!r})",
                f"op.drop_constraint({name!r}, {where})",
            )
        case "function":
            function = qualify(name, None).replace(":", "\\:")
            create = f"CREATE FUNCTION {function}() RETURNS int LANGUAGE sql AS 'SELECT 1'"
            return f"op.execute({create!r})", f"op.execute({f'DROP FUNCTION {function}()'!r})"
        case "table":
            return (
                f"op.create_table({name!r}, sa.Column('tenant', sa.BigInteger()))\n"
                f"    op.create_distributed_table({name!r}, 'tenant')",
                f"op.drop_table({name!r})",
            )
        case _:
            assert isinstance(table.distribution, Distributed)
            alter = f"op.alter_distributed_table({where}, cascade_to_colocated=False, shard_count="
            return f"{alter}5)", f"{alter}{table.distribution.shard_count or 4})"


@pytest.fixture(scope="module")
def shop(server: DatabaseServer) -> Iterator[URL]:
    with server.database("empty") as url:
        execute(url, f'CREATE SCHEMA "{SCHEMAS[1]}"'.replace("%", "%%"))
        yield url


@settings(
    max_examples=5,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_one_by_one_and_together(shop: URL, data: st.DataObject) -> None:
    folder = Path(mkdtemp())
    application = Application(shop, folder / "migrations")
    tables: Tables = data.draw(applications())
    order = data.draw(
        st.sampled_from(
            [
                ("generated", "by hand"),
                ("generated", "by hand", "generated"),
                ("generated", "generated", "by hand"),
                ("generated", "by hand", "by hand"),
            ]
        )
    )
    event(" ".join(order))
    try:
        states = [state(shop)]
        revision: str | None = None
        for number, kind in enumerate(order, start=1):
            if kind == "generated":
                if number > 1:
                    tables = data.draw(applications(before=tables))
                text = application.revise(metadata_of(tables))
                revision = text.split("Revision ID: ")[1].split()[0]
                application.upgrade()
                assert differences(shop, metadata_of(tables)) == []
            else:
                up, down = data.draw(
                    changes(tables, number, first="by hand" not in order[: number - 1])
                )
                down_revision, revision = revision, f"by_hand_{number}"
                lines = [
                    HEAD.format(revision=revision, down_revision=down_revision),
                    "def upgrade() -> None:\n    " + "\n    ".join([*up, "pass"]),
                    "def downgrade() -> None:\n    " + "\n    ".join([*down, "pass"]),
                ]
                path = application.folder / "versions" / f"{revision}.py"
                path.write_text("\n\n".join(lines))
                application.upgrade()
            states.append(state(shop))
            fill(shop, tables, number)
        for before in states[-2::-1]:
            application.downgrade()
            assert state(shop) == before
        for _ in range(2):
            application.upgrade()
            assert state(shop) == states[-1]
            for number in range(3):
                fill(shop, tables, number)
            application.downgrade("base")
            assert state(shop) == states[0]
    finally:
        shutil.rmtree(folder)
        clean(shop)


STATE = """
WITH c AS (SELECT c.*, nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
           WHERE nspname IN ('public', 'Shop %d') AND relname NOT LIKE 'alembic%'
             AND relname NOT LIKE 'citus_%')
SELECT 'column', nspname, relname, attname,
       concat_ws(' ', atttypid::regtype, attnotnull, pg_get_expr(adbin, adrelid))
FROM c JOIN pg_attribute AS a ON attrelid = c.oid
LEFT JOIN pg_attrdef ON (adrelid, adnum) = (attrelid, attnum)
WHERE relkind IN ('r', 'p') AND attnum > 0 AND NOT attisdropped
UNION ALL
SELECT 'index', nspname, relname, pg_get_indexdef(c.oid), '' FROM c WHERE relkind IN ('i', 'I')
UNION ALL
SELECT 'constraint', nspname, relname, conname, pg_get_constraintdef(k.oid)
FROM c JOIN pg_constraint AS k ON conrelid = c.oid
UNION ALL
SELECT 'function', '', '', proname, '' FROM pg_proc WHERE pronamespace = 'public'::regnamespace
UNION ALL
SELECT 'spread', nspname, relname, citus_table_type,
       concat_ws(' ', distribution_column, shard_count)
FROM c JOIN citus_tables ON table_name = c.oid AND citus_table_type <> 'local'
ORDER BY 1, 2, 3, 4, 5
"""


def state(url: URL) -> list[tuple[Any, ...]]:
    """Return the schema, but for the order of columns."""
    with create_engine(url, poolclass=NullPool).connect() as connection:
        return rows(connection, STATE)


def fill(url: URL, tables: Tables, number: int) -> None:
    """Give every table that is there a row of its own, which no key forbids."""
    with create_engine(url, poolclass=NullPool).begin() as connection:
        found = {
            (schema, name)
            for schema, name in rows(connection, "SELECT schemaname, tablename FROM pg_tables")
        }
        for table in tables:
            if (table.schema or "public", table.name) in found:
                name = qualify(table.name, table.schema)
                values = f"({number}, {number}, 'a note')"
                statement = f"INSERT INTO {name} (tenant, id, note) VALUES {values}"
                connection.exec_driver_sql(statement.replace("%", "%%"), ())


def clean(url: URL) -> None:
    left = (
        "SELECT format('DROP TABLE %I.%I CASCADE', schemaname, tablename) FROM pg_tables "
        "WHERE schemaname IN ('public', 'Shop %d') UNION ALL "
        "SELECT format('DROP FUNCTION %s', oid::regprocedure) FROM pg_proc "
        "WHERE pronamespace = 'public'::regnamespace"
    )
    with create_engine(url, poolclass=NullPool).connect() as connection:
        statements = [statement for (statement,) in rows(connection, left)]
    execute(url, *(statement.replace("%", "%%") for statement in statements))
