"""The rules about tables, each with its code, a title and why it is one.

Each is documented in `docs/lint/` under its code, and proved there on a server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

from citus_analytics.lint import columns, foreign_keys, keys, partners
from citus_analytics.lint.finding import Fault, Severity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from citus_analytics.lint.shape import Tables, TableShape

Version: TypeAlias = tuple[int, int]
Check = TypeVar("Check")

TableCheck: TypeAlias = "Callable[[Tables, TableShape], Iterator[Fault]]"


@dataclass(frozen=True, slots=True)
class Rule(Generic[Check]):
    """Something that Citus refuses, or that does harm on it.

    Attributes:
        code: Its stable name: CA0xx for rules about tables, which are looked for in metadata and
            in migrations, CA1xx for those about migrations alone.
        title: What is wrong, in a few words.
        explanation: Why it is wrong, in a sentence or two.
        check: What finds it.
        severity: "error" if the server refuses it, "warning" if it does harm later.
        since: The first version of Citus with this limit; None for all.
        until: The first version of Citus without this limit; None if it is still there.
    """

    code: str
    title: str
    explanation: str
    check: Check
    severity: Severity = "error"
    since: Version | None = None
    until: Version | None = None

    def applies(self, citus: Version) -> bool:
        """Return whether a version of Citus has this limit."""
        return (self.since is None or self.since <= citus) and (
            self.until is None or citus < self.until
        )


TABLE_RULES: Final[tuple[Rule[TableCheck], ...]] = (
    Rule(
        "CA001",
        "A unique key lacks the distribution column",
        "Rows are checked shard by shard. Only if the distribution column is part of the key are "
        "two equal rows sure to meet in one shard.",
        keys.unique_without_distribution_column,
    ),
    Rule(
        "CA002",
        "An exclusion constraint does not compare the distribution column with =",
        "Rows are checked shard by shard. Only rows with the same distribution column are sure to "
        "meet in one shard.",
        keys.exclusion_without_distribution_column,
    ),
    Rule(
        "CA003",
        "A unique key has the distribution column in INCLUDE only",
        "Citus accepts the index when it distributes the table, but each shard looks after its own "
        "rows, so that the table gets duplicates; and it refuses to create the index again.",
        keys.distribution_column_only_included,
        "warning",
    ),
    Rule(
        "CA004",
        "A foreign key leads from a distributed table to a local one",
        "Workers check the rows of their shards, and a local table is on the coordinator alone.",
        foreign_keys.distributed_to_local,
    ),
    Rule(
        "CA005",
        "A foreign key leads to a distributed table that is not colocated",
        "A worker checks a row against the shard on the same node. Only colocated tables have "
        "theirs there; so do tables of one type and shard count, if neither names another.",
        foreign_keys.not_colocated,
    ),
    Rule(
        "CA006",
        "A foreign key does not pair the distribution columns",
        "Only if both distribution columns stand at the same place of the key is the row that is "
        "referred to in the shard beside.",
        foreign_keys.distribution_columns_not_paired,
    ),
    Rule(
        "CA007",
        "A foreign key leads from a replicated table to a distributed one",
        "A reference table is on every node, and no node has all rows of a distributed table. "
        "Local tables that foreign keys tie to reference tables are held to the same.",
        foreign_keys.replicated_to_distributed,
    ),
    Rule(
        "CA008",
        "A foreign key leads from a local table to a distributed one",
        "Citus accepts it and checks what is inserted, but not what is deleted from the "
        "distributed table: it leaves rows behind that refer to nothing, and no CASCADE happens.",
        foreign_keys.local_to_distributed,
        "warning",
    ),
    Rule(
        "CA009",
        "A foreign key from a reference table to a local one has an action",
        "The coordinator would have to change the copies on all nodes; only NO ACTION and RESTRICT "
        "are supported.",
        foreign_keys.reference_to_local_with_action,
    ),
    Rule(
        "CA010",
        "A foreign key's action would change the distribution column",
        "A new value may belong to another shard, and rows do not move. SET NULL and SET DEFAULT "
        "are refused, and ON UPDATE CASCADE.",
        foreign_keys.action_on_distribution_column,
    ),
    Rule(
        "CA011",
        "A foreign key sets a column to the default of a sequence",
        "Shards have no defaults from sequences: the column would become NULL.",
        foreign_keys.default_from_sequence,
    ),
    Rule(
        "CA012",
        "An identity column makes the distribution irreversible",
        "undistribute_table and alter_distributed_table refuse tables with an identity column: "
        "neither a downgrade nor another shard count or distribution column is possible.",
        columns.identity_is_irreversible,
        "warning",
    ),
    Rule(
        "CA013",
        "A sequence numbers a column that is narrower than bigint",
        "Each worker has a part of a sequence that starts at 2^48 times its number. The values "
        "do not fit, so that INSERTs through a worker fail; and Citus refuses to change the type.",
        columns.narrow_sequence,
        "warning",
    ),
    Rule(
        "CA014",
        "One sequence numbers columns of different types",
        "Citus gives a sequence the type of the column that it numbers; it cannot have two.",
        columns.sequence_of_two_types,
    ),
    Rule(
        "CA015",
        "The distribution column has a type that cannot be hashed",
        "The shard of a row is decided by the hash of the distribution column.",
        columns.type_without_hash,
    ),
    Rule(
        "CA016",
        "The distribution column is a generated column",
        "The shard of a row is decided before its generated columns are computed.",
        columns.generated_distribution_column,
    ),
    Rule(
        "CA017",
        "Colocated distribution columns differ in type or collation",
        "Equal values must have equal hashes in colocated tables. Tables of one type and shard "
        "count that name no other are colocated too.",
        partners.partners_differ,
    ),
    Rule(
        "CA018",
        "A table is colocated with something that is not distributed alike",
        "colocate_with names a table that has shards of the same kind, before this one gets its "
        "own.",
        partners.no_such_partner,
    ),
    Rule(
        "CA019",
        "A single-shard table, before Citus 12.0",
        "Distributed tables without a distribution column came with Citus 12.0.",
        partners.single_shard,
        until=(12, 0),
    ),
    Rule(
        "CA020",
        "An identity column narrower than bigint, before Citus 12.0",
        "Citus 12.0 was the first to distribute tables whose identity is an integer or smallint.",
        columns.narrow_identity,
        until=(12, 0),
    ),
)
