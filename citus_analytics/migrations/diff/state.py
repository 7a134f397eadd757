"""What is declared, and what a database has: the two sides of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from citus_analytics.catalog import CatalogRollup, CatalogTable
from citus_analytics.rollups.sql import RollupSpec
from citus_analytics.schema import Distributed, Distribution, Local, Reference

# Alembic's way to name a table: no schema for the first of the search path.
TableKey: TypeAlias = "tuple[str | None, str]"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredTable:
    """A table of the metadata.

    Attributes:
        key: Its schema and name.
        distribution: What was declared for it; None where nothing was, which is not compared.
        colocated_with: The table that it is declared to be colocated with, if there is one.
        access_method: Its `postgresql_using`; None where nothing was said, which is not compared.
    """

    key: TableKey
    distribution: Distribution | None = None
    colocated_with: TableKey | None = None
    access_method: str | None = None


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
        rollups: Its rollups, by their targets.
        foreign_keys: Its foreign keys.
    """

    citus: bool
    schema: str | None = None
    access_methods: frozenset[str] = frozenset({"heap"})
    tables: Mapping[TableKey, CatalogTable] = field(default_factory=dict)
    rollups: Mapping[TableKey, CatalogRollup] = field(default_factory=dict)
    foreign_keys: tuple[ForeignKey, ...] = ()

    def key(self, schema: str | None, name: str) -> TableKey:
        """Return the key of a table: no schema for the first of the search path."""
        return (None if schema == self.schema else schema, name)

    def decides(self, key: TableKey) -> bool:
        """Whether the table exists, and is not distributed because its schema is."""
        return key in self.tables and not self.tables[key].in_distributed_schema

    def is_spread(self, key: TableKey) -> bool:
        """Whether the table is anything but local."""
        return key in self.tables and not isinstance(self.distribution_of(key), Local)

    @property
    def internal(self) -> frozenset[TableKey]:
        """Tables that no model declares and that are not to be dropped either.

        Those of extensions, the partitions of tables, and the machinery of rollups.
        """
        machinery = {
            (schema, name)
            for (schema, _), rollup in self.rollups.items()
            for name in (rollup.spec.changes, rollup.spec.outcome)
        }
        return frozenset(machinery) | {
            key for key, table in self.tables.items() if table.extension or table.partition_of
        }

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
                return Distributed(column=table.column, shard_count=table.shard_count)
            case "single_shard":
                return Distributed(column=None, colocate_with="none")
            case _:
                return Local()
