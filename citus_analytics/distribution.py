"""How a table is spread over a Citus cluster, declared beside the table.

The three kinds are those of the Citus documentation ("Choosing a distribution column", "Table
types"): a distributed table is sharded by the hash of its distribution column, a reference table
has a full copy on every node, a local table lives on the coordinator alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

from citus_analytics.errors import DeclarationError

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Table

# Alembic renders `Table.info` into the migrations that it generates, where our objects could not
# be imported; the metadata's own `info` stays out of them.
_INFO_KEY = "citus_analytics.distribution"


@dataclass(frozen=True, slots=True, kw_only=True)
class Distributed:
    """A table sharded by hash.

    Attributes:
        column: The distribution column: its hash decides the shard of a row.
        colocate_with: The table whose shards sit on the same nodes, so that joins on the
            distribution column stay on one node. None leaves the choice to Citus, which
            colocates tables with the same column type and shard count.
        shard_count: The number of shards; None takes the server's `citus.shard_count`.
    """

    column: str
    colocate_with: str | None = None
    shard_count: int | None = None

    def __post_init__(self) -> None:
        if not self.column:
            raise DeclarationError("Distributed(column=...) needs the name of a column, got ''.")
        if self.shard_count is not None and self.shard_count < 1:
            raise DeclarationError(
                f"Distributed(shard_count=...) must be at least 1, got {self.shard_count}."
            )
        if self.colocate_with is not None and self.shard_count is not None:
            raise DeclarationError(
                f"a table colocated with {self.colocate_with!r} has its shard count: leave out "
                f"either colocate_with or shard_count={self.shard_count}."
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

    Raises:
        DeclarationError: The table lacks the distribution column, or already has a different
            declaration.
    """
    # A column's key may be another than its name, which alone is known to the database.
    columns = [column.name for column in table.columns]
    if isinstance(distribution, Distributed) and distribution.column not in columns:
        raise DeclarationError(
            f"table {table.key!r} cannot be distributed by {distribution.column!r}: its columns "
            f"are {', '.join(columns)}."
        )
    declared = _declarations(table.metadata).setdefault(table.key, distribution)
    if declared != distribution:
        raise DeclarationError(
            f"table {table.key!r} is already declared as {declared}; it cannot become "
            f"{distribution} as well."
        )


def distribution_of(table: Table) -> Distribution:
    """Return what was declared for `table`; `Local()` where nothing was."""
    return _declarations(table.metadata).get(table.key, Local())


def _declarations(metadata: MetaData) -> dict[str, Distribution]:
    return cast("dict[str, Distribution]", metadata.info.setdefault(_INFO_KEY, {}))
