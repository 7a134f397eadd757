"""Servers that distribute tables when they are created, as `citus.distribution_columns` will.

The setting is in no released Citus; an event trigger does the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from alembic.operations.ops import CreateTableOp
from sqlalchemy import BigInteger, Column, ForeignKeyConstraint, MetaData, Table

from citus_analytics.migrations import CitusOperation, SetMultiShardModifyModeOp
from citus_analytics.migrations.compare import Declared, DeclaredTable, Live, plan
from citus_analytics.schema import Distributed, Local, Reference
from tests.autogenerate import differences, migrated
from tests.operations import values
from tests.servers import ON_CITUS_ONLY, execute

if TYPE_CHECKING:
    from sqlalchemy import URL

    from tests.autogenerate import Application

DISTRIBUTE_NEW_TABLES = (
    """
CREATE FUNCTION distribute_new_table() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE
  created oid;
BEGIN
  FOR created IN SELECT objid FROM pg_event_trigger_ddl_commands() AS d
    JOIN pg_class AS c ON c.oid = objid AND c.relkind = 'r' AND NOT c.relispartition
    -- Not the tables that Citus makes on its way.
    WHERE c.relname !~ '_[0-9]+$'
      AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = objid AND attname = 'tenant')
  LOOP
    PERFORM create_distributed_table(created::regclass, 'tenant');
  END LOOP;
END $$""",
    "CREATE EVENT TRIGGER distribute_new_table ON ddl_command_end WHEN TAG IN ('CREATE TABLE') "
    "EXECUTE FUNCTION distribute_new_table()",
)


def shop(*, others: bool) -> MetaData:
    metadata = MetaData()

    def table(name: str, *items: Distributed | Reference | ForeignKeyConstraint) -> None:
        columns = [Column("tenant", BigInteger, primary_key=True), Column("n", BigInteger)]
        Table(name, metadata, *columns, *items)

    table("undeclared")
    table("orders", Distributed("tenant"))
    table("wide", Distributed("tenant", shard_count=7))
    if others:
        table("plans", Reference())
        table("alone", Distributed(None))
        parent = ForeignKeyConstraint(["tenant"], ["orders.tenant"])
        table("lines", parent, Distributed("tenant", colocate_with="orders"))
        table("by_shards", Distributed("tenant", colocate_with="wide"))
    return metadata


@ON_CITUS_ONLY
def test_declarations_decide(application: Application, empty_database: URL) -> None:
    execute(empty_database, *DISTRIBUTE_NEW_TABLES)
    for metadata in (shop(others=False), shop(others=True)):
        migrated(application, metadata)
    application.downgrade()
    assert differences(empty_database, shop(others=False)) == []
    application.downgrade("base")
    application.upgrade()
    assert differences(empty_database, shop(others=True)) == []
    application.downgrade("base")


@pytest.mark.parametrize("distributes", [True, False])
def test_a_table_that_is_declared_local_is_brought_back(distributes: bool) -> None:
    declared = Declared(
        tables={(None, "new"): DeclaredTable(key=(None, "new"), distribution=Local())}
    )
    live = Live(citus=True, distributes_new_tables=distributes)
    operations = plan([CreateTableOp("new", [])], declared, live)
    back = [step for step in operations if isinstance(step, CitusOperation)]
    back = [step for step in back if not isinstance(step, SetMultiShardModifyModeOp)]
    assert [(step.function, step.subject) for step in back] == (
        [("undistribute_table", "new")] if distributes else []
    )
    for step in back:
        dropped = step.reverse()
        assert isinstance(dropped, CitusOperation)
        assert dropped.implied
        assert values(dropped.reverse()) == values(step)
