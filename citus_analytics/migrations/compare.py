"""Distribution and rollups in `alembic revision --autogenerate` and `alembic check`.

Alembic's own comparison says which tables are created, changed and dropped. This adds how they are
distributed and rolled up, and puts all of it into an order that Citus accepts:

1. rollups and foreign keys that go are dropped;
2. each table is created, stored and distributed, then indexed, and comes after the table that it
   is colocated with; for a change that Citus refuses, such as another type of the distribution
   column, the table is local meanwhile;
3. foreign keys are added, then rollups.

Constraints without a name get the one that PostgreSQL would give them, so that they can be dropped.

What is not declared is not compared: a table without a distribution, or without a
`postgresql_using`, is left as it is. Declare `Local()` or `postgresql_using="heap"` to change it
back.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from alembic.operations import MigrateOperation
from alembic.operations.ops import (
    AddColumnOp,
    AlterColumnOp,
    CreateCheckConstraintOp,
    CreateForeignKeyOp,
    CreateIndexOp,
    CreatePrimaryKeyOp,
    CreateTableOp,
    CreateUniqueConstraintOp,
    DropColumnOp,
    DropConstraintOp,
    DropIndexOp,
    DropTableOp,
    ModifyTableOps,
)
from alembic.runtime.plugins import Plugin
from alembic.util import DispatchPriority, PriorityDispatchResult
from sqlalchemy import Column, Computed, ForeignKeyConstraint, Index, MetaData, text
from sqlalchemy.sql.elements import conv

from citus_analytics import catalog
from citus_analytics.catalog import CatalogRollup, CatalogTable
from citus_analytics.errors import OperationError
from citus_analytics.migrations.blocks import policy_of
from citus_analytics.migrations.ops import (
    AlterDistributedTableOp,
    AlterTableSetAccessMethodOp,
    CitusOperation,
    CreateDistributedTableOp,
    CreateReferenceTableOp,
    CreateRollupsOp,
    DropRollupsOp,
    SetMultiShardModifyModeOp,
    UndistributeTableOp,
)
from citus_analytics.rollups.declare import rollups_of, specs_of
from citus_analytics.rollups.sql import RollupSpec, used_columns
from citus_analytics.schema import (
    Distributed,
    Distribution,
    Local,
    Reference,
    declared_distribution,
)
from citus_analytics.sql import DIALECT, LONGEST_NAME, logger, quote

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from collections.abc import Set as AbstractSet

    from alembic.autogenerate.api import AutogenContext
    from alembic.operations.ops import UpgradeOps
    from alembic.runtime.environment import NameFilterParentNames, NameFilterType
    from sqlalchemy import Table
    from sqlalchemy.sql.schema import SchemaItem

TableKey: TypeAlias = "tuple[str | None, str]"
"""A table in Alembic's way: its schema, None for the first of the search path, and its name."""


# The plugin.


def plugins(*others: str) -> list[str]:
    """Return the value of `autogenerate_plugins`: Alembic's own plugins, `others`, and this one.

        context.configure(..., autogenerate_plugins=plugins())

    The first call registers the plugin with Alembic.
    """
    name = "citus_analytics"
    with suppress(ValueError):  # It is registered already.
        Plugin.setup_plugin_from_module(sys.modules[__name__], name)
    return ["alembic.autogenerate.*", *others, name]


def setup(plugin: Plugin) -> None:
    """Register the comparison with Alembic, which calls this."""
    plugin.add_autogenerate_comparator(
        _add_filters,
        "autogenerate",
        "citus_analytics.filters",
        qualifier="postgresql",
        priority=DispatchPriority.FIRST,
    )
    # Last of all: it puts what the others have found into an order that Citus accepts.
    plugin.add_autogenerate_comparator(
        _compare,
        "autogenerate",
        "citus_analytics",
        qualifier="postgresql",
        priority=DispatchPriority.LAST,
    )


def _add_filters(
    context: AutogenContext,
    upgrade_ops: UpgradeOps,  # noqa: ARG001 - as Alembic calls it
) -> PriorityDispatchResult:
    """Let Alembic's comparison ignore what no model declares and no migration may drop.

    These are the tables of `Live.internal`, and the foreign keys that PostgreSQL has made of
    others: of one to a partitioned table there is a copy for each partition, and of one that a
    partitioned table has, one in each partition. They come and go with the original.
    """
    internal = _live(context).internal - _declared(context).tables.keys()
    inherited = _foreign_keys_that(context, "k.conparentid <> 0")

    def include_name(
        name: str | None, kind: NameFilterType, parents: NameFilterParentNames
    ) -> bool:
        return kind != "table" or (_schema(context, parents.get("schema_name")), name) not in (
            internal
        )

    def include_object(
        item: SchemaItem,
        name: str | None,
        kind: NameFilterType,  # noqa: ARG001 - as Alembic calls it
        reflected: bool,
        compare_to: SchemaItem | None,  # noqa: ARG001
    ) -> bool:
        if not reflected or not isinstance(item, ForeignKeyConstraint):
            return True
        return ((_schema(context, item.table.schema), item.table.name), name) not in inherited

    # Alembic has no other way in for a plugin; `include_name` and `include_object` of
    # `context.configure` belong to the environment.
    context._name_filters = [*context._name_filters, include_name]  # noqa: SLF001
    context._object_filters = [*context._object_filters, include_object]  # noqa: SLF001
    return PriorityDispatchResult.CONTINUE


def _compare(context: AutogenContext, upgrade_ops: UpgradeOps) -> PriorityDispatchResult:
    declared, live = _declared(context), _live(context)
    if not live.citus and any(map(declared.is_spread, live.tables)):
        logger().info("Not compared without Citus: how existing tables are distributed")
    upgrade_ops.ops[:] = plan(upgrade_ops.ops, declared, live)
    for operation in upgrade_ops.ops:
        if isinstance(operation, CitusOperation) and not operation.implied:
            logger().info("Detected %s", operation.to_diff_tuple())
        if isinstance(operation, CreateDistributedTableOp | CreateReferenceTableOp):
            table = live.tables.get((operation.schema, operation.table_name))
            if table is not None and table.estimated_rows:
                logger().warning(
                    "%s moves about %s rows of %s, and writers wait meanwhile.%s",
                    operation.function,
                    table.estimated_rows,
                    operation.subject,
                    " For a large table that is written to, see "
                    "create_distributed_table_concurrently."
                    if isinstance(operation, CreateDistributedTableOp)
                    else "",
                )
    return PriorityDispatchResult.CONTINUE


# What is declared, and what a database has.


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredTable:
    """A table of the metadata.

    Attributes:
        key: Its schema and name.
        distribution: What was declared for it; None where nothing was, which is not compared.
        colocated_with: The table that it is declared to be colocated with, if there is one.
        access_method: Its `postgresql_using`; None where nothing was said, which is not compared.
        primary_key: The columns of its primary key, in order.
        primary_key_name: The name of its primary key, if it has been given one.
        generated: Its columns that are computed from others, by name.
        indexes: Its indexes.
    """

    key: TableKey
    distribution: Distribution | None = None
    colocated_with: TableKey | None = None
    access_method: str | None = None
    primary_key: tuple[str, ...] = ()
    primary_key_name: str | None = None
    generated: Mapping[str, Column[Any]] = field(default_factory=dict, compare=False)
    indexes: tuple[Index, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What the metadata declares."""

    tables: Mapping[TableKey, DeclaredTable] = field(default_factory=dict)
    rollups: tuple[RollupSpec, ...] = ()

    def is_spread(self, key: TableKey) -> bool:
        """Whether the table is declared as anything but local."""
        table = self.tables.get(key)
        return table is not None and isinstance(table.distribution, Distributed | Reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrimaryKey:
    """A primary key of a database."""

    name: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignKey:
    """A foreign key of a database."""

    name: str
    table: TableKey
    columns: tuple[str, ...]
    referred: TableKey
    referred_columns: tuple[str, ...]
    options: Mapping[str, str | bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What a database has.

    Attributes:
        schema: The first of the search path, which keys name as None.
        citus: Whether distribution is compared: the database has Citus, and the policy is not to
            leave it alone.
        access_methods: How its tables can be stored.
        tables: Its tables.
        rollups: Its rollups, by their sources.
        primary_keys: Its primary keys, by their tables.
        foreign_keys: Its foreign keys.
        names: The names of its constraints and relations, which new constraints cannot have.
        numbered_columns: Its columns with a sequence as default, or an identity, by their tables.
        identities: Its tables with an identity column.
        generated: Its columns that are computed from others, by table and name.
        distributes_new_tables: Whether it distributes tables by itself when they are created.
        shards: Its shards, where Citus shows them.
    """

    citus: bool
    schema: str | None = None
    access_methods: frozenset[str] = frozenset({"heap"})
    tables: Mapping[TableKey, CatalogTable] = field(default_factory=dict)
    rollups: Mapping[TableKey, CatalogRollup] = field(default_factory=dict)
    primary_keys: Mapping[TableKey, PrimaryKey] = field(default_factory=dict)
    foreign_keys: tuple[ForeignKey, ...] = ()
    names: frozenset[TableKey] = frozenset()
    numbered_columns: frozenset[tuple[TableKey, str]] = frozenset()
    identities: frozenset[TableKey] = frozenset()
    generated: Mapping[TableKey, Mapping[str, Column[Any]]] = field(default_factory=dict)
    distributes_new_tables: bool = False
    shards: frozenset[TableKey] = frozenset()

    def key(self, schema: str | None, name: str) -> TableKey:
        """Return the key of a table: no schema for the first of the search path."""
        return (None if schema == self.schema else schema, name)

    def has_own_distribution(self, key: TableKey) -> bool:
        """Whether the table exists, and is not distributed because its schema is."""
        return key in self.tables and not self.tables[key].in_distributed_schema

    def is_spread(self, key: TableKey) -> bool:
        """Whether the table is anything but local."""
        return key in self.tables and not isinstance(self.distribution_of(key), Local)

    @property
    def internal(self) -> frozenset[TableKey]:
        """Tables that are not dropped although no model declares them.

        Those of extensions, the partitions and shards of tables, and the machinery of rollups.
        """
        machinery = {
            (schema, name)
            for (schema, _), rollup in self.rollups.items()
            for name in rollup.spec.machinery
        }
        return (
            self.shards
            | machinery
            | {key for key, table in self.tables.items() if table.extension or table.partition_of}
        )

    def group_of(self, key: TableKey) -> list[TableKey]:
        """Return the tables colocated with one, itself included; none if it is not distributed."""
        table = self.tables.get(key)
        if table is None or table.kind not in ("distributed", "single_shard"):
            return []
        internal = self.internal
        return sorted(
            (
                other_key
                for other_key, other in self.tables.items()
                if other.colocation_id == table.colocation_id
                and other.kind == table.kind
                and other_key not in internal
            ),
            key=lambda other_key: (other_key[0] or "", other_key[1]),
        )

    def distribution_of(self, key: TableKey) -> Distribution:
        """Return how a table is distributed, but for what it is colocated with."""
        table = self.tables[key]
        match table.kind:
            case "reference":
                return Reference()
            case "distributed":
                return Distributed(table.column, shard_count=table.shard_count)
            case "single_shard":
                return Distributed(None, colocate_with="none")
            case _:
                return Local()


def _declared(context: AutogenContext) -> Declared:
    target = context.metadata or []
    metadatas = [target] if isinstance(target, MetaData) else list(target)
    tables = {}
    for table in context.sorted_tables:
        if not _is_compared(context, table):
            continue
        distribution = declared_distribution(table)
        partner = None
        if isinstance(distribution, Distributed) and distribution.names_a_table:
            schema = distribution.colocate_schema or table.schema
            partner = (_schema(context, schema), distribution.colocate_with or "")
        key = (_schema(context, table.schema), table.name)
        name = table.primary_key.name
        tables[key] = DeclaredTable(
            key=key,
            distribution=distribution,
            colocated_with=partner,
            access_method=table.dialect_options["postgresql"]["using"],
            primary_key=tuple(column.name for column in table.primary_key.columns),
            primary_key_name=name if isinstance(name, str) else None,
            generated={c.name: c for c in table.columns if c.computed is not None},
            indexes=tuple(sorted(table.indexes, key=lambda index: str(index.name))),
        )
    rollups = [
        replace(spec, schema=_schema(context, spec.schema))
        for metadata in metadatas
        for spec in specs_of(metadata)
        if all(
            _is_compared(context, table)
            for rollup in rollups_of(metadata)
            if (rollup.source.schema, rollup.source.name) == (spec.schema, spec.source)
            for table in (rollup.source, *rollup.targets.values())
        )
    ]
    return Declared(tables=tables, rollups=tuple(rollups))


def _is_compared(context: AutogenContext, table: Table) -> bool:
    """Whether the environment's own filters let the table through."""
    parents: NameFilterParentNames = {"schema_name": _schema(context, table.schema)}
    return context.run_name_filters(table.name, "table", parents) and context.run_object_filters(
        table, table.name, "table", False, None
    )


def _live(context: AutogenContext) -> Live:
    connection = context.connection
    assert connection is not None  # noqa: S101 - there is nothing to compare with `--sql`
    tables = catalog.tables(connection)
    inherited = _foreign_keys_that(context, "k.conparentid <> 0")
    not_valid = _foreign_keys_that(context, "NOT k.convalidated")
    foreign_keys: list[ForeignKey] = []
    primary_keys: dict[TableKey, PrimaryKey] = {}
    for schema in sorted({table.schema for table in tables}):
        for (_, name), primary in context.inspector.get_multi_pk_constraint(schema=schema).items():
            if primary["constrained_columns"]:
                primary_keys[_schema(context, schema), name] = PrimaryKey(
                    name=primary["name"] or "", columns=tuple(primary["constrained_columns"])
                )
        found = context.inspector.get_multi_foreign_keys(schema=schema)
        for (_, name), keys in sorted(found.items(), key=lambda item: item[0][1]):
            foreign_keys += (
                ForeignKey(
                    name=key["name"] or "",
                    table=(_schema(context, schema), name),
                    columns=tuple(key["constrained_columns"]),
                    referred=(_schema(context, key["referred_schema"]), key["referred_table"]),
                    referred_columns=tuple(key["referred_columns"]),
                    options={
                        **key.get("options", {}),
                        **({"postgresql_not_valid": True} if where in not_valid else {}),
                    },
                )
                for key in keys
                if (where := ((_schema(context, schema), name), key["name"])) not in inherited
            )
    rollups = [
        replace(rollup, spec=replace(rollup.spec, schema=_schema(context, rollup.spec.schema)))
        for rollup in catalog.rollups(connection)
    ]
    names = connection.execute(_NAMES)
    numbered = [
        ((_schema(context, schema), table), column, identity)
        for schema, table, column, identity in connection.execute(_NUMBERED_COLUMNS)
    ]
    policy = policy_of(context.migration_context)
    citus = catalog.citus_version(connection) is not None
    shards = connection.execute(_SHARDS) if citus else ()
    return Live(
        citus=policy != "skip" and citus,
        schema=connection.dialect.default_schema_name,
        access_methods=catalog.access_methods(connection),
        tables={(_schema(context, table.schema), table.name): table for table in tables},
        rollups={(rollup.spec.schema, rollup.spec.source): rollup for rollup in rollups},
        primary_keys=primary_keys,
        foreign_keys=tuple(foreign_keys),
        names=frozenset((_schema(context, schema), name) for schema, name in names),
        numbered_columns=frozenset((key, column) for key, column, _ in numbered),
        identities=frozenset(key for key, _, identity in numbered if identity),
        generated=_generated(context),
        distributes_new_tables=bool(connection.scalar(_DISTRIBUTION_COLUMNS)),
        shards=frozenset((_schema(context, schema), name) for schema, name in shards),
    )


_WITH_GENERATED_COLUMNS = text("""
SELECT DISTINCT n.nspname, c.relname
FROM pg_catalog.pg_attribute AS a
JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p')
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE a.attgenerated <> '' AND NOT c.relispartition
ORDER BY n.nspname, c.relname
""")


def _generated(context: AutogenContext) -> dict[TableKey, dict[str, Column[Any]]]:
    """Return the columns that are computed from others, by table and name."""
    assert context.connection is not None  # noqa: S101 - there is nothing to compare with `--sql`
    return {
        (_schema(context, schema), table): {
            column["name"]: Column(column["name"], column["type"], Computed(**column["computed"]))
            for column in context.inspector.get_columns(table, schema=schema)
            if "computed" in column
        }
        for schema, table in context.connection.execute(_WITH_GENERATED_COLUMNS).all()
    }


# A setting of coming versions of Citus.
_DISTRIBUTION_COLUMNS = text("SELECT current_setting('citus.distribution_columns', true)")

# Hidden from most clients on the nodes that have them; `citus.override_table_visibility` and
# `citus.show_shards_for_app_name_prefixes` show them.
_SHARDS = text("""
SELECT n.nspname, c.relname
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND pg_catalog.relation_is_a_known_shard(c.oid)
""")

_NAMES = text("""
SELECT n.nspname, c.relname
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
UNION
SELECT n.nspname, k.conname
FROM pg_catalog.pg_constraint AS k JOIN pg_catalog.pg_namespace AS n ON n.oid = k.connamespace
""")

_NUMBERED_COLUMNS = text("""
SELECT n.nspname, c.relname, a.attname, a.attidentity <> ''
FROM pg_catalog.pg_attribute AS a
JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p')
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE a.attidentity <> '' OR EXISTS (
  SELECT FROM pg_catalog.pg_attrdef AS d
  JOIN pg_catalog.pg_depend AS p ON p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid
  JOIN pg_catalog.pg_class AS s ON s.oid = p.refobjid AND s.relkind = 'S'
  WHERE p.refclassid = 'pg_class'::regclass AND (d.adrelid, d.adnum) = (a.attrelid, a.attnum))
""")


def _foreign_keys_that(context: AutogenContext, condition: str) -> set[tuple[TableKey, str | None]]:
    """Return the tables and names of the foreign keys `k` of which a condition holds."""
    assert context.connection is not None  # noqa: S101 - there is nothing to compare with `--sql`
    found = context.connection.execute(
        text(f"""
SELECT n.nspname, c.relname, k.conname
FROM pg_catalog.pg_constraint AS k
JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE k.contype = 'f' AND {condition}
""")
    )
    return {((_schema(context, schema), table), name) for schema, table, name in found}


def _schema(context: AutogenContext, schema: str | None) -> str | None:
    """Return a schema in Alembic's way: None for the first of the search path."""
    assert context.dialect is not None  # noqa: S101 - a connection has one
    return None if schema == context.dialect.default_schema_name else schema


# The plan: pure, no database is asked.


@dataclass(slots=True)
class _TableChanges:
    """What happens to one table.

    Attributes:
        key: The table.
        create: Its creation, if it is new.
        drop: Its drop, if it goes.
        changes: What happens to its columns, constraints and indexes, in order.
        distribution: How its distribution changes, if it exists and stays.
        before: What has to be dropped before its columns change.
        after: What has to be created after they have.
    """

    key: TableKey
    create: CreateTableOp | None = None
    drop: DropTableOp | None = None
    changes: list[MigrateOperation] = field(default_factory=list)
    distribution: list[CitusOperation] = field(default_factory=list)
    before: list[MigrateOperation] = field(default_factory=list)
    after: list[MigrateOperation] = field(default_factory=list)


def plan(
    operations: Sequence[MigrateOperation], declared: Declared, live: Live
) -> list[MigrateOperation]:
    """Return the whole migration, given what Alembic's own comparison has found."""
    # By table. What other plugins have found stays before the first table, or after the last.
    before: list[MigrateOperation] = []
    after: list[MigrateOperation] = []
    by_key: dict[TableKey, _TableChanges] = {}
    internal = live.internal - declared.tables.keys()
    for operation in operations:
        if not isinstance(operation, CreateTableOp | DropTableOp | ModifyTableOps):
            (after if by_key else before).append(operation)
            continue
        key = live.key(operation.schema, operation.table_name)
        if key in internal:
            continue
        table = by_key.setdefault(key, _TableChanges(key))
        match operation:
            case CreateTableOp():
                table.create = operation
            case DropTableOp():
                table.drop = operation
            case ModifyTableOps():
                table.changes.extend(operation.ops)
    for key in declared.tables:
        if key in live.tables:
            by_key.setdefault(key, _TableChanges(key))
    tables = _in_order_of_colocation(by_key, declared)

    for table in tables:
        if live.citus and table.key in declared.tables and live.has_own_distribution(table.key):
            table.distribution = _change_distribution(
                declared.tables[table.key], declared, live, by_key
            )
    rekeyed = {table.key for table in tables if _change_primary_key(table, declared, live)}
    redistributed = {table.key for table in tables if table.distribution}
    dropped = {table.key for table in tables if table.drop is not None}
    leaving = [
        table.key
        for table in tables
        if table.key in live.tables and (table.drop or any(map(_leaves, table.distribution)))
    ]

    first_rollups, last_rollups = _change_rollups(
        declared, live, redistributed | dropped, {table.key: table.changes for table in tables}
    )
    first_keys, last_keys = _detach_foreign_keys(tables, redistributed | rekeyed, declared, live)
    for table in tables:
        _generate_anew(table, declared, live)
    changes = [change for table in tables for change in table.changes]
    _name_constraints([*first_keys, *last_keys, *changes], live)
    steps: list[MigrateOperation] = [*first_rollups, *first_keys]
    for table in tables:
        steps += _change_table(table, declared, live, leaving)
    steps += [*last_keys, *last_rollups]
    spread = any(declared.is_spread(table.key) or live.is_spread(table.key) for table in tables)
    if spread and len(steps) > 1:
        # One connection to each node, in both directions: Alembic's own operations work on shards
        # in parallel, after which Citus refuses some of them.
        mode = SetMultiShardModifyModeOp("sequential")
        return [mode, *before, *steps, *after, mode.reverse()]
    return [*before, *steps, *after]


def _in_order_of_colocation(
    tables: dict[TableKey, _TableChanges], declared: Declared
) -> list[_TableChanges]:
    """Return the tables in the order given, but each after the one that it is colocated with."""
    ordered: dict[TableKey, _TableChanges] = {}

    def add(key: TableKey) -> None:
        if key in ordered or key in visited:
            return
        visited.add(key)
        table = tables[key]
        if table.drop is None and key in declared.tables:
            partner = declared.tables[key].colocated_with
            if partner in tables and tables[partner].drop is None:
                add(partner)
        ordered[key] = table

    visited: set[TableKey] = set()
    for key in tables:
        add(key)
    return list(ordered.values())


def _change_table(
    table: _TableChanges, declared: Declared, live: Live, leaving: Sequence[TableKey]
) -> list[MigrateOperation]:
    """Return what happens to a table, in order."""
    schema, name = table.key

    def modify(operations: Sequence[MigrateOperation]) -> list[MigrateOperation]:
        return [ModifyTableOps(name, list(operations), schema=schema)] if operations else []

    if table.drop is not None:
        lost: list[MigrateOperation] = []
        if live.has_own_distribution(table.key):
            was = DeclaredTable(
                key=table.key,
                distribution=_distribution_before(table.key, live, leaving),
                access_method=live.tables[table.key].access_method,
            )
            # DROP TABLE does away with these, and what creates the table again brings them back.
            created = [*_create_storage(was), *_create_distribution(was, live, new=True)]
            lost = [operation.reverse() for operation in reversed(created)]
        return [*lost, *modify(table.changes), table.drop]

    if table.create is not None:
        # Other plugins may create tables that no model declares.
        wanted = declared.tables.get(table.key, DeclaredTable(key=table.key))
        stored = _create_storage(wanted)
        if stored:
            table.create.kw.pop("postgresql_using", None)
        distributed = _create_distribution(wanted, live, new=True)
        return [table.create, *stored, *distributed, *modify(table.changes)]

    # A table goes back to one node before it gets keys that are allowed there only, and gets those
    # that need its new column after that; a column that it was distributed by goes last.
    before = _distribution_before(table.key, live, leaving) if table.distribution else None
    for change in table.distribution:
        match change, before:
            case UndistributeTableOp(), Distributed() | Reference():
                change.was = before
            case AlterDistributedTableOp(), Distributed() if _leaves(change):
                change.was = before
    first = [change for change in table.distribution if isinstance(change, UndistributeTableOp)]
    then = [change for change in table.distribution if change not in first]
    early: list[MigrateOperation] = []
    late: list[MigrateOperation] = []
    for operation in table.changes:
        keys = isinstance(operation, CreateIndexOp | CreatePrimaryKeyOp | CreateUniqueConstraintOp)
        distributed_by = (
            isinstance(operation, DropColumnOp)
            and operation.column_name == live.tables[table.key].column
        )
        (late if then and (keys or distributed_by) else early).append(operation)
    # Alembic drops columns in any order, after everything else. Generated ones depend on others.
    early.sort(key=lambda change: isinstance(change, DropColumnOp) + _is_plain(change))
    storage: list[MigrateOperation] = []
    if live.citus and table.key in declared.tables:
        storage = _change_storage(declared.tables[table.key], live)
    columns = [*modify(table.before), *modify(early), *modify(table.after)]
    return [*first, *columns, *storage, *then, *modify(late)]


def _generate_anew(table: _TableChanges, declared: Declared, live: Live) -> None:
    """Drop generated columns, and add them again, around changes of the types that they read.

    PostgreSQL refuses to change a type under them.
    """
    altered = {
        change.column_name
        for change in table.changes
        if isinstance(change, AlterColumnOp) and change.modify_type is not None
    }

    def reads(expression: object, columns: AbstractSet[str]) -> bool:
        words = set(re.findall(r'"(?:[^"]|"")+"|\w+', str(expression)))
        return any(column in words or quote(column) in words for column in columns)

    def is_affected(column: Column[Any]) -> bool:
        return column.computed is not None and reads(column.computed.sqltext, altered)

    schema, name = table.key
    wanted = declared.tables.get(table.key, DeclaredTable(key=table.key))
    found = live.generated.get(table.key, {})
    again = {
        column
        for column, definition in found.items()
        if column in wanted.generated
        and (is_affected(definition) or is_affected(wanted.generated[column]))
    }
    others: list[MigrateOperation] = []
    for change in table.changes:
        match change:
            case DropColumnOp() if change.column_name in found and is_affected(
                found[change.column_name]
            ):
                table.before.append(change)
            case AddColumnOp() if is_affected(change.column):
                table.after.append(change)
            case AlterColumnOp() if change.column_name in again:
                pass
            case _:
                others.append(change)
    new = {change.index_name for change in others if isinstance(change, CreateIndexOp)}
    for index in wanted.indexes:
        if index.name not in new and any(reads(each, again) for each in index.expressions):
            table.before.append(DropIndexOp.from_index(index))
            table.after.append(CreateIndexOp.from_index(index))
    for column in sorted(again):
        table.before.append(DropColumnOp.from_column_and_tablename(schema, name, found[column]))
        # In front of its indexes.
        added = AddColumnOp.from_column_and_tablename(schema, name, wanted.generated[column])
        table.after.insert(0, added)
    table.changes = others


def _is_plain(change: MigrateOperation) -> bool:
    """Whether a change drops a column that is not generated from others."""
    if not isinstance(change, DropColumnOp):
        return False
    again = change._reverse  # noqa: SLF001 - the only way to it
    return again is None or again.column.computed is None


def _create_distribution(table: DeclaredTable, live: Live, *, new: bool) -> list[CitusOperation]:
    """Return the operation that distributes a local or new table as declared, if it is to be."""
    schema, name = table.key
    match table.distribution:
        case Distributed() as distribution:
            return [CreateDistributedTableOp.of(name, distribution, schema, new=new)]
        case Reference():
            return [CreateReferenceTableOp(name, schema=schema, new=new)]
        case Local() if new and live.distributes_new_tables:
            return [UndistributeTableOp(name, schema=schema, new=True)]
        case _:
            return []


def _create_storage(table: DeclaredTable) -> list[CitusOperation]:
    """Return the operation that stores a new table as declared, if that is not the usual way.

    `CREATE TABLE ... USING columnar` fails on a server without Citus; this does as its policy says.
    """
    schema, name = table.key
    if table.access_method in (None, "heap"):
        return []
    return [AlterTableSetAccessMethodOp(name, table.access_method, schema=schema, new=True)]


def _change_storage(table: DeclaredTable, live: Live) -> list[MigrateOperation]:
    """Return the operation that stores an existing table as declared, if it is not."""
    schema, name = table.key
    found = live.tables[table.key].access_method
    if found is None or table.access_method in (None, found):
        return []
    # As with distribution: what a server does not have is not asked of it.
    if table.access_method not in live.access_methods:
        return []
    return [AlterTableSetAccessMethodOp(name, table.access_method, was=found, schema=schema)]


def _change_distribution(
    table: DeclaredTable,
    declared: Declared,
    live: Live,
    planned: Mapping[TableKey, _TableChanges],
) -> list[CitusOperation]:
    """Return the operations that distribute an existing table as declared; none if it is so.

    `planned` has the changes of the tables that it is colocated with.
    """
    schema, name = table.key
    before = live.distribution_of(table.key)
    numbered = {column for key, column in live.numbered_columns if key == table.key}
    refused = [
        change.column_name
        for change in planned[table.key].changes
        if isinstance(change, AlterColumnOp) and _is_refused(change, before, numbered)
    ]
    if refused:
        logger().warning(
            "Citus refuses to change column %s of %s while the table is distributed: all of its "
            "rows go through the coordinator, and writers wait meanwhile",
            ", ".join(refused),
            ".".join(filter(None, table.key)),
        )
        wanted = table.distribution
        match wanted, before:
            case None, _:
                wanted = before
            case Distributed(), Distributed() if wanted.column and not (
                wanted.shard_count or wanted.names_a_table
            ):
                wanted = Distributed(
                    wanted.column,
                    colocate_with=wanted.colocate_with,
                    shard_count=before.shard_count,
                )
        again = _create_distribution(replace(table, distribution=wanted), live, new=False)
        return [_undistribute(table.key, before, live), *again]
    if table.distribution is None:
        return []
    match table.distribution, before:
        case (Local(), Local()) | (Reference(), Reference()):
            return []
        case _, Local():
            # Distributing a table that Citus has in its metadata would rewrite it, and forget what
            # undistribute_table keeps. Citus takes it out by itself if it has put it in.
            known = live.tables[table.key].kind == "citus_local"
            first: list[CitusOperation] = []
            if known and not live.tables[table.key].auto_converted:
                first = [_undistribute(table.key, before, live)]
            return [*first, *_create_distribution(table, live, new=False)]
        case Distributed() as wanted, Distributed() if (wanted.column is None) == (
            before.column is None
        ):
            pass
        case _:
            again = _create_distribution(table, live, new=False)
            return [_undistribute(table.key, before, live), *again]

    found, group = live.tables[table.key], live.group_of(table.key)
    others = [key for key in group if key != table.key]
    column = wanted.column if wanted.column != found.column else None
    shard_count = wanted.shard_count if wanted.shard_count != found.shard_count else None

    def follows(key: TableKey) -> bool:
        """Whether a colocated table takes this one's number of shards, by its declaration."""
        seen = set()
        other = declared.tables.get(key)
        while other is not None and other.colocated_with is not None and other.key not in seen:
            if other.colocated_with == table.key:
                return True
            seen.add(other.key)
            other = declared.tables.get(other.colocated_with)
        return False

    def may_stay(key: TableKey) -> bool:
        """Whether a table may be colocated with one that wants to be alone."""
        other = declared.tables.get(key)
        return other is not None and (
            follows(key)
            or (
                isinstance(other.distribution, Distributed) and not other.distribution.colocate_with
            )
        )

    partner = table.colocated_with
    if wanted.colocate_with is None:
        moves = False
    elif partner is None:
        # Those that have joined it by their own declaration, or by Citus's choice, may stay.
        moves = not all(map(may_stay, others))
    else:
        changes = planned[partner].distribution if partner in planned else []
        stays = all(
            isinstance(change, AlterDistributedTableOp) and change.cascade_to_colocated
            for change in changes
        )
        moves = not (partner in group and stays)
    if column is None and shard_count is None and not moves:
        return []
    cascade = None
    if others and (shard_count is not None or moves):
        # Tables that follow this one by their declaration follow it now; others stay as they are.
        alone = moves and partner is None
        cascade = column is None and not alone and all(map(follows, others))
    return [
        AlterDistributedTableOp(
            name,
            column=column,
            shard_count=shard_count,
            colocate_with=wanted.colocate_with if moves else None,
            colocate_schema=wanted.colocate_schema if moves else None,
            cascade_to_colocated=cascade,
            was=Distributed(found.column, shard_count=found.shard_count),
            schema=schema,
        )
    ]


def _is_refused(change: AlterColumnOp, before: Distribution, numbered: Collection[str]) -> bool:
    """Whether Citus refuses a change of a column while its table is spread as it was before."""
    if isinstance(before, Local):
        return False
    if isinstance(before, Distributed) and change.column_name == before.column:
        return change.modify_type is not None or change.modify_server_default is not False
    return change.modify_type is not None and change.column_name in numbered


def _undistribute(key: TableKey, was: Distribution, live: Live) -> UndistributeTableOp:
    """Return the operation that brings an existing table back to the coordinator.

    Raises:
        OperationError: Citus would refuse.
    """
    if key in live.identities:
        raise OperationError(
            f"table {'.'.join(filter(None, key))} would have to go back to the coordinator, which "
            "Citus refuses because of its identity column. Write a migration by hand: create "
            "a second table as declared, fill it with INSERT ... SELECT, drop the first one, and "
            "rename the second."
        )
    schema, name = key
    return UndistributeTableOp(name, was=was, schema=schema)


def _leaves(change: MigrateOperation) -> bool:
    """Whether a table leaves its colocation group by a change of its distribution."""
    # With a cascade the whole group goes, and stays together.
    return isinstance(change, UndistributeTableOp) or (
        isinstance(change, AlterDistributedTableOp) and not change.cascade_to_colocated
    )


def _distribution_before(key: TableKey, live: Live, leaving: Sequence[TableKey]) -> Distribution:
    """Return how a table is distributed now, as it can be declared when it comes back.

    `leaving` are the tables that leave their colocation groups, in the order in which they do.
    A downgrade brings them back in the opposite order: each joins a table of its group that has
    stayed, or else the one that left last.
    """
    distribution = live.distribution_of(key)
    if not isinstance(distribution, Distributed):
        return distribution
    group = live.group_of(key)
    stayed = [other for other in group if other not in leaving]
    left = [other for other in leaving if other in group]
    partner = stayed[0] if stayed else left[-1]
    if partner == key:
        return distribution
    schema, name = partner
    return Distributed(
        distribution.column,
        colocate_with=name,
        colocate_schema=None if schema == key[0] else live.tables[partner].schema,
    )


def _change_primary_key(table: _TableChanges, declared: Declared, live: Live) -> bool:
    """Add what changes the primary key of a spread table, which Alembic does not compare."""
    wanted, found = declared.tables.get(table.key), live.primary_keys.get(table.key)
    if wanted is None or table.key not in live.tables or table.drop is not None:
        return False
    if not (declared.is_spread(table.key) or live.is_spread(table.key)):
        return False
    if wanted.primary_key == (found.columns if found else ()):
        return False
    schema, name = table.key
    if found is not None:
        # The old key goes before its columns do, the new one comes after its columns have.
        old = CreatePrimaryKeyOp(conv(found.name), name, list(found.columns), schema=schema)
        table.changes.insert(0, old.reverse())
    if wanted.primary_key:
        new_name = wanted.primary_key_name or f"{name}_pkey"
        columns = list(wanted.primary_key)
        table.changes.append(CreatePrimaryKeyOp(conv(new_name), name, columns, schema=schema))
    return True


def _detach_foreign_keys(
    tables: Collection[_TableChanges],
    changed: AbstractSet[TableKey],
    declared: Declared,
    live: Live,
) -> tuple[list[MigrateOperation], list[MigrateOperation]]:
    """Take foreign keys out of the changes of tables; return what is dropped first, and added last.

    Citus accepts a foreign key only between tables that are distributed already, so it is added
    after both are, and it is dropped before either of them is distributed in another way. Those
    of the tables in `changed`, which get another distribution or primary key, go and come back.
    """
    first: list[MigrateOperation] = []
    last: list[MigrateOperation] = []

    def is_spread(key: TableKey) -> bool:
        return declared.is_spread(key) or live.is_spread(key) or key in changed

    def create(key: ForeignKey) -> CreateForeignKeyOp:
        return CreateForeignKeyOp(
            # Exempt from the naming convention, which would change the name.
            conv(key.name),
            key.table[1],
            key.referred[1],
            list(key.columns),
            list(key.referred_columns),
            source_schema=key.table[0],
            referent_schema=key.referred[0],
            **key.options,
        )

    for table in tables:
        if table.create is not None:
            spread = is_spread(table.key)
            stay = []
            for item in table.create.columns:
                if isinstance(item, ForeignKeyConstraint) and (
                    spread
                    or is_spread(live.key(item.referred_table.schema, item.referred_table.name))
                ):
                    last.append(CreateForeignKeyOp.from_constraint(item))
                else:
                    stay.append(item)
            table.create.columns = stay
        if table.drop is not None:
            # They go first wherever the table is, so that tables can be dropped in any order; what
            # would create the table again comes without them.
            first += [create(key).reverse() for key in live.foreign_keys if key.table == table.key]
            again = table.drop._reverse  # noqa: SLF001 - the only way to it
            if again is not None:
                again.columns = [
                    item for item in again.columns if not isinstance(item, ForeignKeyConstraint)
                ]
        others: list[MigrateOperation] = []
        for change in table.changes:
            if isinstance(change, CreateForeignKeyOp):
                last.append(change)
            elif isinstance(change, DropConstraintOp) and change.constraint_type == "foreignkey":
                first.append(change)
            else:
                others.append(change)
        table.changes = others

    dropped = {table.key for table in tables if table.drop is not None}
    gone = {
        (live.key(drop.schema, drop.table_name), drop.constraint_name)
        for drop in first
        if isinstance(drop, DropConstraintOp)
    }
    for key in live.foreign_keys:
        stays = key.table not in dropped and (key.table, key.name) not in gone
        if stays and not changed.isdisjoint((key.table, key.referred)):
            first.append(create(key).reverse())
            last.append(create(key))
    return first, last


_NewConstraintOp: TypeAlias = (
    CreateForeignKeyOp | CreateUniqueConstraintOp | CreateCheckConstraintOp
)


def _name_constraints(operations: Sequence[MigrateOperation], live: Live) -> None:
    """Name the new constraints that have no name, as PostgreSQL would: a downgrade needs it."""
    taken = set(live.names)
    unnamed: list[tuple[_NewConstraintOp, str | None, str, Sequence[str], str]] = []
    columns: Sequence[str]
    for operation in operations:
        match operation:
            case DropConstraintOp():
                schema, _ = live.key(operation.schema, operation.table_name)
                taken.discard((schema, str(operation.constraint_name)))
                continue
            case CreateForeignKeyOp():
                schema, table = operation.kw.get("source_schema"), operation.source_table
                columns, label = operation.local_cols, "fkey"
            case CreateUniqueConstraintOp():
                schema, table = operation.schema, operation.table_name
                columns, label = operation.columns, "key"
            case CreateCheckConstraintOp():
                schema, table = operation.schema, operation.table_name
                columns, label = (), "check"
            case _:
                continue
        schema, _ = live.key(schema, table)
        if operation.constraint_name is None:
            unnamed.append((operation, schema, table, columns, label))
        else:
            taken.add((schema, str(operation.constraint_name)))
    for operation, schema, table, columns, label in unnamed:
        labels = itertools.chain([label], (f"{label}{number}" for number in itertools.count(1)))
        names = (object_name(table, "_".join(columns), each) for each in labels)
        name = next(name for name in names if (schema, name) not in taken)
        operation.constraint_name = conv(name)
        taken.add((schema, name))


def object_name(table: str, columns: str, label: str) -> str:
    """Return the name that PostgreSQL makes for a constraint without one (`makeObjectName`).

    Of the names of the table and of the columns the longer one is cut first.
    """
    parts = [part.encode() for part in (table, columns) if part]
    while sum(map(len, parts)) + len(parts) + len(label) > LONGEST_NAME:
        longest = max(range(len(parts)), key=lambda index: (len(parts[index]), index))
        parts[longest] = parts[longest][:-1]
    return "_".join([*(part.decode(errors="ignore") for part in parts), label])


def _change_rollups(
    declared: Declared,
    live: Live,
    changed: AbstractSet[TableKey],
    changes: Mapping[TableKey, Sequence[MigrateOperation]],
) -> tuple[list[MigrateOperation], list[MigrateOperation]]:
    """Return what brings the rollups to what is declared: what comes first, and what comes last.

    Rollups that change are dropped before the tables change, and created after: what is pending is
    added up in between. So are those of the tables in `changed`, which are distributed differently
    from now on, or dropped, since a log joins the shards of its source when it is created; and
    those that use a column whose type changes, which fires no trigger.
    """
    first: list[MigrateOperation] = []
    last: list[MigrateOperation] = []
    wanted = {(spec.schema, spec.source): spec for spec in declared.rollups}
    for key, found in live.rollups.items():
        was, renamed_to, moved_to = found.spec, None, None
        spec = wanted.pop(key, None)
        renamed = None if found.renamed is None else live.key(*found.renamed)
        if spec is None and found.renamed is not None and renamed in wanted:
            spec = wanted.pop(renamed)
            renamed_to = None if renamed[1] == key[1] else renamed[1]
            moved_to = None if renamed[0] == key[0] else found.renamed[0]
        targets = {(was.schema, target.table) for target in was.targets}
        if spec is None:
            # Other applications may have rollups of their own in the database.
            ours = key in declared.tables or renamed in declared.tables
            lost = key not in live.tables and targets & declared.tables.keys()
            if ours or lost or (targets | {key}) & changed:
                first.append(DropRollupsOp(was))
            continue
        altered = _alter_rollups(was, spec, changes)
        if not (spec != was or found.faults or altered.touched or (targets | {key}) & changed):
            continue
        groups = {target.table: {*target.by, target.bucket} for target in was.targets}
        clear = set(altered.clear)
        for target in spec.targets:
            new = {*target.by, target.bucket}
            added = {
                change.column.name
                for change in changes.get((spec.schema, target.table), ())
                if isinstance(change, AddColumnOp)
            }
            # Rows of other groups may be the same group by the new key. A column that has been
            # renamed by hand still has its values.
            regrouped = target.table in found.regrouped
            if target.table in groups and (
                bool(added & new) if regrouped else groups[target.table] != new
            ):
                clear.add(target.table)
        tables = [target.table for target in was.targets]
        cleared = tuple(table for table in tables if table in clear)
        last.append(
            CreateRollupsOp(
                spec,
                again=True,
                clear=cleared,
                incomplete=tuple(table for table in tables if table in altered.incomplete),
                renamed_from=None if renamed_to is None else was.source,
                moved_from=None if moved_to is None else was.schema or live.schema,
                faults=found.faults,
            )
        )
        first.append(
            DropRollupsOp(
                was,
                keep_state=True,
                clear=cleared,
                incomplete=tuple(
                    table
                    for table in tables
                    if table in altered.incomplete or table in found.incomplete
                ),
                renamed_to=renamed_to,
                moved_to=moved_to,
            )
        )
    last += (CreateRollupsOp(spec) for spec in wanted.values())
    return first, last


@dataclass(slots=True)
class _Altered:
    """What changes of columns mean to rollups.

    Attributes:
        touched: Whether the rollups cannot stay while the columns change.
        incomplete: The tables of rollups whose values change without a trigger.
        clear: Those of them whose groups change.
    """

    touched: bool = False
    incomplete: set[str] = field(default_factory=set)
    clear: set[str] = field(default_factory=set)


def _alter_rollups(
    was: RollupSpec, spec: RollupSpec, changes: Mapping[TableKey, Sequence[MigrateOperation]]
) -> _Altered:
    """Return what the changes of a source and of the tables of its rollups mean to them."""
    altered = _Altered()

    def columns(table: str) -> dict[str, bool]:
        """Return the columns that change, and whether they keep their values."""
        found = {}
        for change in changes.get((spec.schema, table), ()):
            match change:
                case AlterColumnOp(modify_type=kind) if kind is not None:
                    found[change.column_name] = _keeps_values(change)
                case DropColumnOp():
                    found[change.column_name] = False
                case AddColumnOp():
                    found[change.column.name] = False
        return found

    of_source = columns(spec.source)
    used = {*used_columns(was), *used_columns(spec)} & of_source.keys()
    lossy = {column for column in used if not of_source[column]}
    altered.touched = bool(used)
    for target in spec.targets:
        of_target = columns(target.table)
        groups = {*target.by, *([] if target.bucket is None else [target.bucket])}
        # Views and generated columns read them.
        own = {*groups, target.rows, *target.sums, *target.extremes} & of_target.keys()
        altered.touched |= bool(of_target.keys() & (own | target.visible.keys()))
        logged = {spec.key if name == "key" else name for name in target.by.values()}
        grouped_by = set(
            used_columns(
                replace(
                    spec,
                    time=None,
                    key=spec.key if spec.key in logged else None,
                    columns={n: sql for n, sql in spec.columns.items() if n in logged},
                )
            )
        )
        if lossy & grouped_by or any(not of_target[column] for column in own & groups):
            altered.clear.add(target.table)
        if lossy or any(not of_target[column] for column in own):
            altered.incomplete.add(target.table)
    return altered


_TEXT: Final = re.compile(r"VARCHAR(?:\((\d+)\))?|TEXT")
_WIDER: Final = {
    "SMALLINT": ("INTEGER", "BIGINT"),
    "INTEGER": ("BIGINT",),
}


def _keeps_values(change: AlterColumnOp) -> bool:
    """Whether another type of a column changes none of its values."""

    def written(kind: Any) -> str:
        return str(kind.compile(dialect=DIALECT)) if kind is not None else ""

    old, new = written(change.existing_type), written(change.modify_type)
    if "postgresql_using" in change.kw:
        return False
    before, after = _TEXT.fullmatch(old), _TEXT.fullmatch(new)
    if before is not None and after is not None:
        return after[1] is None or (before[1] is not None and int(before[1]) <= int(after[1]))
    return new == old or new in _WIDER.get(old, ())
