"""Distribution and rollups in `alembic revision --autogenerate` and `alembic check`.

Two lines in an `env.py`:

    from citus_analytics.migrations.autogenerate import plugins

    context.configure(..., autogenerate_plugins=plugins())

What is declared beside the tables of `target_metadata` is then compared with what the database has,
and a migration brings both together. On a server without Citus, and with `citus="skip"` given to
`context.configure`, the distribution of existing tables is not compared.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from alembic.runtime.plugins import Plugin
from alembic.util import DispatchPriority, PriorityDispatchResult
from sqlalchemy import MetaData

from citus_analytics import catalog
from citus_analytics.migrations.diff import Declared, DeclaredTable, ForeignKey, Live, plan
from citus_analytics.migrations.operations import (
    CitusOperation,
    CreateDistributedTableOp,
    CreateReferenceTableOp,
)
from citus_analytics.rollups.declare import rollups_of
from citus_analytics.rollups.sql import RollupSpec
from citus_analytics.schema import Distributed, declared_distribution
from citus_analytics.sql import logger

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from alembic.autogenerate.api import AutogenContext
    from alembic.operations import MigrateOperation
    from alembic.operations.ops import UpgradeOps
    from alembic.runtime.environment import NameFilterParentNames
    from sqlalchemy import Table


_NAME: Final = "citus_analytics"
_registered: list[str] = []


def plugins(*others: str) -> list[str]:
    """Return what `autogenerate_plugins` is to be: Alembic's own plugins, `others`, and this one.

    The first call registers the plugin with Alembic.
    """
    if not _registered:
        Plugin.setup_plugin_from_module(sys.modules[__name__], _NAME)
        _registered.append(_NAME)
    return ["alembic.autogenerate.*", *others, _NAME]


def setup(plugin: Plugin) -> None:
    """Register the comparison with Alembic; `plugins` calls this."""
    # Last of all: it puts what the others have found into an order that Citus accepts.
    plugin.add_autogenerate_comparator(
        _compare,
        "autogenerate",
        "citus_analytics",
        qualifier="postgresql",
        priority=DispatchPriority.LAST,
    )


def _compare(context: AutogenContext, upgrade_ops: UpgradeOps) -> PriorityDispatchResult:
    assert context.connection is not None  # noqa: S101 - there is nothing to compare with `--sql`
    declared, live = _declared(context), _live(context)
    if not live.citus and any(map(declared.is_spread, live.tables)):
        logger().info("Not compared without Citus: how existing tables are distributed")
    operations = plan(upgrade_ops.ops, declared, live)
    for operation in operations:
        if isinstance(operation, CitusOperation):
            logger().info("Detected %s", operation.to_diff_tuple())
        _warn_of_rows(operation, live)
    upgrade_ops.ops[:] = operations
    return PriorityDispatchResult.CONTINUE


def _warn_of_rows(operation: MigrateOperation, live: Live) -> None:
    """Say of a table with rows that its writers will wait; whoever writes to it has to know."""
    if not isinstance(operation, CreateDistributedTableOp | CreateReferenceTableOp):
        return
    table = live.tables.get((operation.schema, operation.table_name))
    if table is not None and table.estimated_rows:
        logger().warning(
            "%s moves about %s rows of %s, and writers wait meanwhile. For a large table that is "
            "written to, see create_distributed_table_concurrently.",
            operation.function,
            table.estimated_rows,
            operation.subject,
        )


def _declared(context: AutogenContext) -> Declared:
    tables = (
        _declared_table(context, table)
        for table in context.sorted_tables
        if _is_compared(context, table)
    )
    return Declared(
        tables={table.key: table for table in tables},
        rollups=tuple(
            replace(spec, schema=_schema(context, spec.schema))
            for metadata in _metadata(context)
            for rollup in rollups_of(metadata)
            for spec in [RollupSpec.of(rollup)]
            if all(
                _is_compared(context, table)
                for table in (rollup.source, rollup.target, rollup.state)
            )
        ),
    )


def _is_compared(context: AutogenContext, table: Table) -> bool:
    """Whether the environment's own filters let the table through."""
    parents: NameFilterParentNames = {"schema_name": _schema(context, table.schema)}
    return context.run_name_filters(table.name, "table", parents) and context.run_object_filters(
        table, table.name, "table", False, None
    )


def _declared_table(context: AutogenContext, table: Table) -> DeclaredTable:
    distribution = declared_distribution(table)
    partner = None
    if isinstance(distribution, Distributed) and distribution.names_a_table:
        schema = distribution.colocate_schema or table.schema
        partner = (_schema(context, schema), distribution.colocate_with or "")
    return DeclaredTable(
        key=(_schema(context, table.schema), table.name),
        distribution=distribution,
        colocated_with=partner,
        access_method=table.dialect_options["postgresql"]["using"],
    )


def _live(context: AutogenContext) -> Live:
    connection = context.connection
    assert connection is not None  # noqa: S101 - as above
    policy = context.opts.get("citus", "auto")
    found = [
        replace(rollup, spec=replace(rollup.spec, schema=_schema(context, rollup.spec.schema)))
        for rollup in catalog.rollups(connection)
    ]
    tables = catalog.tables(connection)
    return Live(
        citus=policy != "skip" and catalog.citus_version(connection) is not None,
        schema=connection.dialect.default_schema_name,
        access_methods=catalog.access_methods(connection),
        tables={(_schema(context, table.schema), table.name): table for table in tables},
        rollups={(rollup.spec.schema, rollup.spec.target): rollup for rollup in found},
        foreign_keys=tuple(_foreign_keys(context, {table.schema for table in tables})),
    )


def _foreign_keys(context: AutogenContext, schemas: Iterable[str]) -> Iterator[ForeignKey]:
    for schema in sorted(schemas):
        found = context.inspector.get_multi_foreign_keys(schema=schema)
        for (_, table), keys in sorted(found.items(), key=lambda item: item[0][1]):
            yield from (
                ForeignKey(
                    name=key["name"] or "",
                    table=(_schema(context, schema), table),
                    columns=tuple(key["constrained_columns"]),
                    referred=(
                        _schema(context, key["referred_schema"]),
                        key["referred_table"],
                    ),
                    referred_columns=tuple(key["referred_columns"]),
                    options=key.get("options", {}),
                )
                for key in keys
            )


def _schema(context: AutogenContext, schema: str | None) -> str | None:
    """Return a schema in Alembic's way: None for the first of the search path."""
    assert context.dialect is not None  # noqa: S101 - a connection has one
    return None if schema == context.dialect.default_schema_name else schema


def _metadata(context: AutogenContext) -> list[MetaData]:
    target = context.metadata
    if target is None:
        return []
    return [target] if isinstance(target, MetaData) else list(target)
