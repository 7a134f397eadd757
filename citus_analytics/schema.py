"""How a table is spread over a Citus cluster, declared beside the table.

The three kinds are those of the Citus documentation ("Choosing a distribution column", "Table
types"): a distributed table is sharded by its distribution column, a reference table has a full
copy on every node, a local table lives on the coordinator alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args

from citus_analytics.errors import DeclarationError

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Table

# Alembic renders `Table.info` into the migrations that it generates, where our objects could not
# be imported; the metadata's own `info` stays out of them.
_INFO_KEY = "citus_analytics.schema"


DistributionType: TypeAlias = Literal["hash", "append", "range"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Distributed:
    """A table on shards.

    Attributes:
        column: The distribution column: it decides the shard of a row. None keeps the whole table
            in a single shard (Citus 12.0 and later).
        colocate_with: The table whose shards sit on the same nodes, so that joins on the
            distribution column stay on one node; `"none"`, in Citus's own word, is with nothing.
            None leaves the choice to Citus, which colocates tables with the same column type and
            shard count.
        shard_count: The number of shards; None takes the server's `citus.shard_count`.
        distribution_type: How the column decides: by its hash, or by the ranges of an `append` or
            `range` table, whose shards are made by hand.
        colocate_schema: The schema of `colocate_with`, None for that of the table itself.

    Raises:
        DeclarationError: The arguments contradict each other.
    """

    column: str | None
    colocate_with: str | None = None
    shard_count: int | None = None
    distribution_type: DistributionType = "hash"
    colocate_schema: str | None = None

    def __post_init__(self) -> None:
        if self.column == "":
            raise DeclarationError("Distributed(column=...) needs the name of a column, got ''.")
        if self.shard_count is not None and self.shard_count < 1:
            raise DeclarationError(
                f"Distributed(shard_count=...) must be at least 1, got {self.shard_count}."
            )
        if self.colocate_schema is not None and self.colocate_with is None:
            raise DeclarationError(
                f"Distributed(colocate_schema={self.colocate_schema!r}) is the schema of "
                "colocate_with, which is not given."
            )
        if self.shard_count is not None and self.names_a_table:
            raise DeclarationError(
                f"a table colocated with {self.colocate_with!r} has its shard count: leave out "
                f"either colocate_with or shard_count={self.shard_count}."
            )
        self._check_type()

    @property
    def names_a_table(self) -> bool:
        """Whether `colocate_with` is a table; with a schema, even "none" is."""
        return self.colocate_with is not None and not (
            self.colocate_with == "none" and self.colocate_schema is None
        )

    def _check_type(self) -> None:
        if self.distribution_type not in get_args(DistributionType):
            raise DeclarationError(
                f"Distributed(distribution_type=...) must be one of "
                f"{', '.join(get_args(DistributionType))}, got {self.distribution_type!r}."
            )
        by_hash = self.distribution_type == "hash"
        if self.column is None and not (by_hash and self.shard_count is None):
            raise DeclarationError(
                "Distributed(column=None) is a table of a single shard: leave out "
                "distribution_type and shard_count."
            )
        if not by_hash and (self.shard_count, self.colocate_with) != (None, None):
            raise DeclarationError(
                f"the shards of a table distributed by {self.distribution_type} are made by hand: "
                "leave out shard_count and colocate_with."
            )


@dataclass(frozen=True, slots=True)
class Reference:
    """A small table with a full copy on every node, so that any shard can join it."""


@dataclass(frozen=True, slots=True)
class Local:
    """A table on the coordinator alone; what a table is when nothing is declared."""


Distribution: TypeAlias = Distributed | Reference | Local


def distribute(table: Table, distribution: Distribution) -> None:
    """Declare how `table` is spread over a cluster.

    The metadata keeps it under the table's key: a copy by `Table.to_metadata()` is declared anew.

    Raises:
        DeclarationError: The table lacks the distribution column, or already has a different
            declaration.
    """
    # A column's key may be another than its name, which alone is known to the database.
    columns = [column.name for column in table.columns]
    wanted = distribution.column if isinstance(distribution, Distributed) else None
    if wanted is not None and wanted not in columns:
        raise DeclarationError(
            f"table {table.key!r} cannot be distributed by {wanted!r}: its columns "
            f"are {', '.join(columns)}."
        )
    declared = _declarations(table.metadata).setdefault(table.key, distribution)
    if declared != distribution:
        raise DeclarationError(
            f"table {table.key!r} is already declared as {declared}; it cannot become "
            f"{distribution} as well."
        )


def declared_distribution(table: Table) -> Distribution | None:
    """Return what was declared for `table`, None if nothing was."""
    return _declarations(table.metadata).get(table.key)


def distribution_of(table: Table) -> Distribution:
    """Return what was declared for `table`; `Local()` where nothing was."""
    return declared_distribution(table) or Local()


def _declarations(metadata: MetaData) -> dict[str, Distribution]:
    return cast("dict[str, Distribution]", metadata.info.setdefault(_INFO_KEY, {}))
