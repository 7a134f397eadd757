"""The rules: what Citus refuses, and what it accepts although it does harm later.

Rules about tables (CA0xx) hold for declared tables and for what migrations make of theirs; rules
about events (CA1xx) are about migrations alone. Each is documented in `docs/lint/` under its code,
and its examples there are run on a server.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from citus_analytics.lint.model import (
    AlterColumn,
    AlterDistribution,
    AlterUnsupported,
    Change,
    CreateRollups,
    CreateTrigger,
    Distribute,
    DropColumn,
    DropTable,
    EndMigration,
    Event,
    Extend,
    ForeignKey,
    Model,
    Name,
    Place,
    RenameTable,
    RunConcurrently,
    Table,
    Undistribute,
    Update,
)

if TYPE_CHECKING:
    from citus_analytics.lint.model import Column, Key
    from citus_analytics.rollups.sql import RollupSpec

# "error": the server refuses it. "warning": the server accepts it, and it does harm later.
Severity: TypeAlias = Literal["error", "warning"]
Version: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that a rule finds.

    Attributes:
        message: What is wrong, and what to do.
        subject: The table (with its schema), or the revision of the migration.
        place: Where a migration says so, None for metadata.
    """

    message: str
    subject: str
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """Something that Citus refuses, or that does harm on it.

    Attributes:
        code: Its stable name: CA0xx for rules about tables, which are looked for in metadata and
            in migrations, CA1xx for those about migrations alone.
        title: What is wrong, in a few words.
        explanation: Why it is wrong, in a sentence or two.
        severity: "error" if the server refuses it, "warning" if it does harm later.
        since: The first version of Citus with this limit; None for all.
        until: The first version of Citus without this limit; None if it is still there.
    """

    code: str
    title: str
    explanation: str
    severity: Severity = "error"
    since: Version | None = None
    until: Version | None = None

    def applies(self, citus: Version) -> bool:
        """Return whether a version of Citus has this limit."""
        return (self.since is None or self.since <= citus) and (
            self.until is None or citus < self.until
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRule(Rule):
    """A rule about a table among others."""

    check: Callable[[Model, Change], Iterator[Fault]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRule(Rule):
    """A rule about an event; the model is as it is before the event happens."""

    check: Callable[[Model, Event], Iterator[Fault]]


def table_rule(
    code: str,
    title: str,
    explanation: str,
    severity: Severity = "error",
    until: Version | None = None,
) -> Callable[[Callable[[Model, Change], Iterator[Fault]]], TableRule]:
    """Make a function a rule about tables."""

    def decorate(check: Callable[[Model, Change], Iterator[Fault]]) -> TableRule:
        return TableRule(code, title, explanation, severity, until=until, check=check)

    return decorate


def event_rule(
    code: str, title: str, explanation: str, severity: Severity = "error"
) -> Callable[[Callable[[Model, Event], Iterator[Fault]]], EventRule]:
    """Make a function a rule about events."""

    def decorate(check: Callable[[Model, Event], Iterator[Fault]]) -> EventRule:
        return EventRule(code, title, explanation, severity, check=check)

    return decorate


UNUSED_IGNORE: Final = Rule(
    "CA000",
    "An ignore that ignores nothing",
    "The finding that it was for is gone, or never existed: a later one would go unnoticed.",
    "warning",
)


PARALLEL_ENVIRONMENT: Final = Rule(
    "CA116",
    "An environment without the sequential mode",
    "After an operation that works on the shards in parallel, such as CREATE INDEX, Citus refuses "
    "foreign keys to reference tables, types, schemas and functions until the transaction ends.",
    "warning",
)


# Keys. A shard can only look after its own rows.


@table_rule(
    "CA001",
    "A unique key lacks the distribution column",
    "Rows are checked shard by shard. Only if the distribution column is part of the key are "
    "two equal rows sure to meet in one shard.",
)
def _unique_without_distribution_column(_: Model, change: Change) -> Iterator[Fault]:
    table = change.table
    for key in _keys_without_distribution_column(change):
        if key.kind != "exclusion constraint" and table.placement.column not in key.included:
            yield _key_fault(
                table,
                key,
                f"does not contain the distribution column {table.placement.column!r}: a shard "
                f"does not see the rows of others. Add {table.placement.column!r} to it, or "
                "distribute the table by one of its columns.",
            )


@table_rule(
    "CA002",
    "An exclusion constraint does not compare the distribution column with =",
    "Rows are checked shard by shard. Only rows with the same distribution column are sure to "
    "meet in one shard.",
)
def _exclusion_without_distribution_column(_: Model, change: Change) -> Iterator[Fault]:
    table = change.table
    for key in _keys_without_distribution_column(change):
        if key.kind == "exclusion constraint":
            yield _key_fault(
                table,
                key,
                f"does not compare the distribution column {table.placement.column!r} with =: rows "
                "of different shards could not exclude each other. Add "
                f"({table.placement.column!r}, '=') to it.",
            )


@table_rule(
    "CA003",
    "A unique key has the distribution column in INCLUDE only",
    "Citus accepts the index when it distributes the table, but each shard looks after its own "
    "rows, so that the table gets duplicates; and it refuses to create the index again.",
    "warning",
)
def _distribution_column_only_included(_: Model, change: Change) -> Iterator[Fault]:
    table = change.table
    for key in _keys_without_distribution_column(change):
        if key.kind != "exclusion constraint" and table.placement.column in key.included:
            yield _key_fault(
                table,
                key,
                f"has the distribution column {table.placement.column!r} in INCLUDE only: "
                "create_distributed_table accepts it, but it is unique within each shard and not "
                "in the table, and the index cannot be created again. Make "
                f"{table.placement.column!r} one of its key columns.",
            )


def _keys_without_distribution_column(change: Change) -> Iterator[Key]:
    placement = change.table.placement
    if placement.kind == "sharded":
        yield from (key for key in change.part.keys if placement.column not in key.columns)


def _key_fault(table: Table, key: Key | ForeignKey, message: str) -> Fault:
    name = str(table.name)
    return Fault(f"{key} of table {name!r} {message}", name, key.place or table.place)


# Foreign keys. Both rows must be on one node, and stay there.

_HARMLESS: Final = ("NO ACTION", "RESTRICT")


@table_rule(
    "CA004",
    "A foreign key leads from a distributed table to a local one",
    "Workers check the rows of their shards, and a local table is on the coordinator alone.",
)
def _distributed_to_local(model: Model, change: Change) -> Iterator[Fault]:
    table = change.table
    for key, target in _foreign_keys(model, change):
        if table.placement.distributed and target.placement.kind == "local":
            name = str(target.name)
            yield _key_fault(
                table,
                key,
                f"refers to {name!r}, which is local: workers do not have its rows. Make {name!r} "
                f"a reference table, or distribute it, before {str(table.name)!r}.",
            )


@table_rule(
    "CA005",
    "A foreign key leads to a distributed table that is not colocated",
    "A worker checks a row against the shards on its own node, and only colocated tables have "
    "the matching shards there. Tables with the same column type and shard count are colocated, "
    "unless one of them names another table.",
)
def _not_colocated(model: Model, change: Change) -> Iterator[Fault]:
    table = change.table
    for key, target in _foreign_keys(model, change):
        if target is table or not (table.placement.distributed and target.placement.distributed):
            continue
        if not _may_be_colocated(table, target):
            name = str(target.name)
            yield _key_fault(
                table,
                key,
                f"refers to {name!r}, which is not sure to be colocated with it: their "
                f"{_difference_of_groups(table, target)}. Declare "
                f"colocate_with={target.name.name!r}, or make {name!r} a reference table.",
            )


@table_rule(
    "CA006",
    "A foreign key does not pair the distribution columns",
    "Only if both distribution columns are at the same position in the key is the referenced row "
    "in the matching shard on the same node.",
)
def _distribution_columns_not_paired(model: Model, change: Change) -> Iterator[Fault]:
    table = change.table
    for key, target in _foreign_keys(model, change):
        own, other = table.placement, target.placement
        if own.kind != "sharded" or other.kind != "sharded":
            continue
        # Without columns it refers to the primary key.
        primary = (one.columns for one in target.keys if one.kind == "primary key")
        referred = key.target_columns or next(primary, ())
        pairs = zip(key.columns, referred, strict=False)
        paired = any(pair == (own.column, other.column) for pair in pairs)
        if referred and not paired and _may_be_colocated(table, target):
            yield _key_fault(
                table,
                key,
                f"does not pair the distribution columns {own.column!r} and {other.column!r} of "
                f"{str(target.name)!r}: the row that it refers to may be on another node. Add "
                "both, at the same position.",
            )


@table_rule(
    "CA007",
    "A foreign key leads from a replicated table to a distributed one",
    "A reference table is on every node, and no node has all rows of a distributed table. "
    "The same holds for local tables that foreign keys connect to reference tables.",
)
def _replicated_to_distributed(model: Model, change: Change) -> Iterator[Fault]:
    table = change.table
    if table.placement.distributed:
        return
    for key, target in _foreign_keys(model, change):
        if target.placement.distributed and model.is_on_citus(table):
            is_local = table.placement.kind == "local"
            kind = "local table tied to a reference one" if is_local else "reference table"
            yield _key_fault(
                table,
                key,
                f"of a {kind} refers to {str(target.name)!r}, which is distributed: no node has "
                f"all rows. Drop the foreign key, or distribute {str(table.name)!r} by the column "
                "that it refers with.",
            )


@table_rule(
    "CA008",
    "A foreign key leads from a local table to a distributed one",
    "Citus accepts it and checks what is inserted, but not what is deleted from the "
    "distributed table: rows are left behind that refer to nothing, and CASCADE does nothing.",
    "warning",
)
def _local_to_distributed(model: Model, change: Change) -> Iterator[Fault]:
    table = change.table
    if table.placement.kind != "local":
        return
    for key, target in _foreign_keys(model, change):
        if target.placement.distributed and not model.is_on_citus(table):
            name = str(target.name)
            yield _key_fault(
                table,
                key,
                f"of a local table refers to {name!r}, which is distributed: inserts are checked, "
                f"but rows that are deleted from {name!r} leave theirs behind. Drop the foreign "
                f"key, or distribute {str(table.name)!r} as well.",
            )


@table_rule(
    "CA009",
    "A foreign key from a reference table to a local one has an action",
    "The coordinator would have to change the copies on all nodes; only NO ACTION and RESTRICT "
    "are supported.",
)
def _reference_to_local_with_action(model: Model, change: Change) -> Iterator[Fault]:
    table = change.table
    for key, target in _foreign_keys(model, change):
        actions = [action for action in _actions(key) if not action.endswith(_HARMLESS)]
        if table.placement.kind == "reference" and target.placement.kind == "local" and actions:
            name = str(target.name)
            yield _key_fault(
                table,
                key,
                f"of a reference table has {' and '.join(actions)}, but {name!r} is local: only NO "
                f"ACTION and RESTRICT are supported. Make {name!r} a reference table too, or leave "
                "the action out.",
            )


@table_rule(
    "CA010",
    "A foreign key's action would change the distribution column",
    "A new value may belong to another shard, and rows do not move. SET NULL and SET DEFAULT "
    "are refused, and ON UPDATE CASCADE.",
)
def _action_on_distribution_column(model: Model, change: Change) -> Iterator[Fault]:
    table = change.table
    for key, _ in _foreign_keys(model, change):
        actions = [
            action
            for action in _actions(key)
            if "SET " in action or action.startswith("ON UPDATE CASCADE")
        ]
        column = table.placement.column
        if table.placement.kind == "sharded" and column in key.columns and actions:
            yield _key_fault(
                table,
                key,
                f"contains the distribution column {column!r} and has {' and '.join(actions)}, "
                "which could move rows between shards. Use NO ACTION, RESTRICT or ON DELETE "
                "CASCADE.",
            )


@table_rule(
    "CA011",
    "A foreign key sets a column to the default of a sequence",
    "Shards have no defaults from sequences: the column would become NULL.",
)
def _default_from_sequence(model: Model, change: Change) -> Iterator[Fault]:
    table = change.table
    for key, _ in _foreign_keys(model, change):
        names: tuple[str, ...] = ()
        if "SET DEFAULT" in (key.on_update, key.on_delete):
            names = key.columns
        elif key.on_delete.startswith("SET DEFAULT"):
            listed = [name.strip('" ').lower() for name in re.split(r"[(),]", key.on_delete)]
            names = tuple(name for name in key.columns if name.lower() in listed)
        for name in names:
            column = table.columns.get(name)
            numbered = column is not None and (column.sequence is not None or column.identity)
            if numbered and model.is_on_citus(table):
                yield _key_fault(
                    table,
                    key,
                    f"has SET DEFAULT, but {name!r} takes its default from a sequence, which the "
                    "shards do not have. Give the column a constant default, or use SET NULL.",
                )


def _foreign_keys(model: Model, change: Change) -> Iterator[tuple[ForeignKey, Table]]:
    """Yield the foreign keys to tables that are known."""
    for key in change.part.foreign_keys:
        target = model.find(key.target)
        if target is not None:
            yield key, target


def _actions(key: ForeignKey) -> tuple[str, str]:
    return f"ON DELETE {key.on_delete}", f"ON UPDATE {key.on_update}"


def _may_be_colocated(table: Table, target: Table) -> bool:
    own, other = table.group, target.group
    return own is None or other is None or own == other


def _difference_of_groups(table: Table, target: Table) -> str:
    if table.placement.kind != target.placement.kind:
        return f"kinds are {table.placement.kind} and {target.placement.kind}"
    own, other = table.distribution_column, target.distribution_column
    if own is not None and other is not None and own.type != other.type:
        return f"distribution columns are {own.type} and {other.type}"
    if table.placement.alone or target.placement.alone:
        return "declarations say colocate_with='none'"
    return "shard counts are not said to be the same"


# Columns: identities, sequences, and what may decide the shard of a row.

# The types of PostgreSQL that have no default hash operator class.
# fmt: off
_NOT_HASHED: Final = frozenset((
    "BIT", "BIT VARYING", "BOX", "CIRCLE", "JSON", "JSONPATH", "LINE", "LSEG", "MONEY", "PATH",
    "PG_SNAPSHOT", "POINT", "POLYGON", "REFCURSOR", "TSQUERY", "TSVECTOR", "TXID_SNAPSHOT", "XID",
    "XML",
))
# fmt: on
_NARROW: Final = ("INTEGER", "SMALLINT")


@table_rule(
    "CA012",
    "An identity column makes the distribution irreversible",
    "undistribute_table and alter_distributed_table refuse tables with an identity column: "
    "neither a downgrade nor another shard count or distribution column is possible.",
    "warning",
)
def _identity_is_irreversible(_: Model, change: Change) -> Iterator[Fault]:
    table = change.table
    for column in change.part.columns.values():
        if table.placement.spread and column.identity:
            yield _column_fault(
                table,
                column,
                "is an identity: Citus then refuses undistribute_table and "
                "alter_distributed_table, so that the table can never change its distribution. "
                "Use BIGSERIAL, or a BIGINT with a sequence for its default.",
            )


@table_rule(
    "CA013",
    "A sequence numbers a column that is narrower than bigint",
    "Each worker has a part of a sequence that starts at 2^48 times its number. The values "
    "do not fit, so that INSERTs through a worker fail; and Citus refuses to change the type.",
    "warning",
)
def _narrow_sequence(model: Model, change: Change) -> Iterator[Fault]:
    table = change.table
    for column in change.part.columns.values():
        numbered = column.sequence is not None or column.identity
        if column.type in _NARROW and numbered and model.is_on_citus(table):
            yield _column_fault(
                table,
                column,
                f"is {column.type} and numbered by a sequence: INSERTs through a worker fail, "
                "because its part of the sequence starts above what the type can hold, and the "
                "type cannot be changed afterwards. Use BigInteger.",
            )


@table_rule(
    "CA014",
    "One sequence numbers columns of different types",
    "Citus gives a sequence the type of the column that it numbers; it cannot have two.",
)
def _sequence_of_two_types(model: Model, change: Change) -> Iterator[Fault]:
    table = change.table
    for column in change.part.columns.values():
        if column.sequence is None or not model.is_on_citus(table):
            continue
        user, used = model.first_numbered(column.sequence) or (table, column)
        if used.type != column.type:
            yield _column_fault(
                table,
                column,
                f"is {column.type} and takes its default from sequence {column.sequence!r}, which "
                f"already numbers the {used.type} column {used.name!r} of {str(user.name)!r}. Give "
                "both columns the same type, or each a sequence.",
            )


@table_rule(
    "CA015",
    "The distribution column has a type that cannot be hashed",
    "The shard of a row is decided by the hash of the distribution column.",
)
def _type_without_hash(_: Model, change: Change) -> Iterator[Fault]:
    table = change.table
    column = table.distribution_column
    if column is None or column.type is None:
        return
    negative_scale = re.search(r"NUMERIC\s*\(\s*\d+\s*,\s*-", column.full_type or "")
    if column.type in _NOT_HASHED or negative_scale:
        yield _column_fault(
            table,
            column,
            f"is the distribution column, but {column.full_type} cannot be hashed. Distribute by "
            "a column of another type, such as BIGINT, TEXT or UUID.",
        )


@table_rule(
    "CA016",
    "The distribution column is a generated column",
    "The shard of a row is decided before its generated columns are computed.",
)
def _generated_distribution_column(_: Model, change: Change) -> Iterator[Fault]:
    table = change.table
    column = table.distribution_column
    if column is not None and column.generated:
        yield _column_fault(
            table,
            column,
            "is the distribution column, but GENERATED ALWAYS AS from others. Write its value "
            "when a row is inserted, or distribute by a column that it is made of.",
        )


@table_rule(
    "CA020",
    "An identity column narrower than bigint, before Citus 12.0",
    "Citus 12.0 was the first to distribute tables whose identity is an integer or smallint.",
    until=(12, 0),
)
def _narrow_identity(_: Model, change: Change) -> Iterator[Fault]:
    table = change.table
    for column in change.part.columns.values():
        if table.placement.spread and column.identity and column.type in _NARROW:
            yield _column_fault(
                table,
                column,
                f"is an identity of type {column.type}: before Citus 12.0 an identity must be "
                "BIGINT. Use BigInteger.",
            )


def _column_fault(table: Table, column: Column, message: str) -> Fault:
    name = str(table.name)
    return Fault(
        f"column {column.name!r} of table {name!r} {message}", name, column.place or table.place
    )


# Colocation: the partners that tables name, or that Citus chooses for them.


@table_rule(
    "CA017",
    "Colocated distribution columns differ in type or collation",
    "Equal values must have equal hashes in colocated tables. Tables of one type and shard "
    "count that name no other are colocated too.",
)
def _partners_differ(_: Model, change: Change) -> Iterator[Fault]:
    table = change.table
    if table.placement.kind != "sharded" or table.partner is None:
        return
    own, other = table.distribution_column, table.partner.distribution_column
    if own is None or other is None or own.type is None or other.type is None:
        return
    if own.type != other.type:
        difference = f"{own.name!r} is {own.type}, {other.name!r} is {other.type}"
    elif own.collation != other.collation:
        mine, theirs = own.collation or "the default", other.collation or "the default"
        difference = f"the collation of {own.name!r} is {mine}, that of {other.name!r} is {theirs}"
    else:
        return
    name = str(table.name)
    yield Fault(
        f"table {name!r} is colocated with {str(table.partner.name)!r}, but their distribution "
        f"columns differ: {difference}. Equal values must have equal hashes: declare both columns "
        "alike, or give one table a shard_count of its own.",
        name,
        own.place or table.place,
    )


@table_rule(
    "CA018",
    "A table is colocated with something that is not distributed alike",
    "colocate_with names a table that has shards of the same kind, before this one gets its own.",
)
def _no_such_partner(_: Model, change: Change) -> Iterator[Fault]:
    table = change.table
    if table.refusal is not None:
        name, partner = str(table.name), table.partner_name
        yield Fault(
            f"table {name!r} is to be colocated with {str(partner)!r}, {table.refusal}. Name a "
            "distributed table of the same kind and schema, which is distributed before this one.",
            name,
            table.place,
        )


@table_rule(
    "CA019",
    "A single-shard table, before Citus 12.0",
    "Distributed tables without a distribution column came with Citus 12.0.",
    until=(12, 0),
)
def _single_shard(_: Model, change: Change) -> Iterator[Fault]:
    table = change.table
    if table.placement.kind == "single-shard":
        name = str(table.name)
        yield Fault(
            f"table {name!r} has no distribution column: single-shard tables came with Citus 12.0. "
            "Give it a distribution column, or make it a reference table.",
            name,
            table.place,
        )


@table_rule(
    "CA021",
    "A partitioned reference table",
    "Citus supports partitions of distributed tables only.",
)
def _partitioned_reference(_: Model, change: Change) -> Iterator[Fault]:
    table = change.table
    if table.partitioned and table.placement.kind == "reference":
        name = str(table.name)
        yield Fault(
            f"table {name!r} is partitioned, and is to be a reference table: Citus only has "
            "partitions of distributed tables. Leave the partitions out, or distribute it.",
            name,
            table.place,
        )


# Columnar tables, and inheritance.


@table_rule(
    "CA022",
    "A foreign key of a columnar table",
    "Columnar storage has neither foreign keys, from or to a table, nor what else would need a row "
    "trigger after the statement.",
)
def _foreign_key_of_columnar(model: Model, change: Change) -> Iterator[Fault]:
    table = change.table
    for key, target in _foreign_keys(model, change):
        columnar = table if table.columnar else target
        if columnar.columnar:
            yield _key_fault(
                table,
                key,
                f"needs triggers on {str(columnar.name)!r}, which is columnar and cannot have "
                "them. Drop the foreign key, or store the table as heap.",
            )
    if table.columnar and change.part is table:
        for referrer, key in model.referrers(table):
            yield _key_fault(
                referrer,
                key,
                f"needs triggers on {str(table.name)!r}, which is columnar and cannot have them. "
                "Drop the foreign key, or store the table as heap.",
            )


@table_rule(
    "CA023",
    "A columnar table has an index that is neither a B-tree nor a hash",
    "Columnar storage refuses other indexes, and alter_table_set_access_method drops them without "
    "a word.",
)
def _index_of_columnar(_: Model, change: Change) -> Iterator[Fault]:
    table = change.table
    for index in change.part.indexes if table.columnar else ():
        name = str(table.name)
        yield Fault(
            f"index {index.name or ''!r} of table {name!r} is a {index.method} index, and the "
            "table is columnar: it can only have B-tree and hash indexes. Drop the index, or store "
            "the table as heap.",
            name,
            index.place or table.place,
        )


@table_rule(
    "CA024",
    "A columnar table of partitions",
    "A table of partitions has no storage. Each partition has its own.",
)
def _partitioned_columnar(_: Model, change: Change) -> Iterator[Fault]:
    table = change.table
    if table.columnar and table.partitioned:
        name = str(table.name)
        yield Fault(
            f"table {name!r} is partitioned, and cannot be columnar itself. Make its partitions "
            "columnar, each when it is no longer written to.",
            name,
            table.place,
        )


@table_rule(
    "CA025",
    "A table of Citus in an inheritance",
    "Citus supports partitions, and no other inheritance: not of distributed and reference tables, "
    "nor of local tables that foreign keys tie to reference tables.",
)
def _inheritance(model: Model, change: Change) -> Iterator[Fault]:
    table = change.table
    if change.part is not table:
        return
    name = str(table.name)
    parents = [one for one in map(model.find, table.parents) if one is not None]
    heirs = model.heirs(table)
    if model.is_on_citus(table) and (parents or heirs):
        other = f"inherits from {str(parents[0].name)!r}" if parents else ""
        other = other or f"is inherited by {str(heirs[0].name)!r}"
        kind = table.placement.kind
        which = "tied to a reference table" if kind == "local" else kind
        yield Fault(
            f"table {name!r} is {which}, and {other}: Citus has no inheritance other than "
            "partitions. Copy the columns with LIKE, or partition the table.",
            name,
            table.place,
        )
    for parent in parents:
        if model.is_on_citus(parent) and not model.is_on_citus(table):
            yield Fault(
                f"table {name!r} is local, and inherits from {str(parent.name)!r}, which is "
                f"{parent.placement.kind}: Citus has no inheritance other than partitions. Copy "
                "the columns with LIKE.",
                name,
                table.place,
            )


# Events: what migrations do, when, and whether there is a way back.

# Functions that no version of PostgreSQL has as IMMUTABLE, whatever their arguments.
_VOLATILE: Final = frozenset(
    (
        "random",
        "clock_timestamp",
        "timeofday",
        "gen_random_uuid",
        "uuid_generate_v1",
        "uuid_generate_v4",
        "nextval",
    )
)
_STABLE: Final = frozenset(
    (
        "now",
        "statement_timestamp",
        "transaction_timestamp",
        "current_timestamp",
        "current_date",
        "current_time",
        "localtimestamp",
        "localtime",
    )
)


@event_rule(
    "CA101",
    "A concurrent operation in a transaction",
    "CREATE INDEX CONCURRENTLY and create_distributed_table_concurrently commit several times "
    "on their own. The server refuses them in the transaction of a migration.",
)
def _concurrently_in_transaction(_: Model, event: Event) -> Iterator[Fault]:
    if isinstance(event.action, RunConcurrently) and not event.autocommit:
        yield _event_fault(
            event,
            "this runs CONCURRENTLY, which the server refuses in a transaction. Put it in "
            "`with op.get_context().autocommit_block():`.",
        )


@event_rule(
    "CA102",
    "A table is distributed after it got rows",
    "create_distributed_table copies the rows to the shards and keeps all writers waiting "
    "until the transaction ends. create_distributed_table_concurrently does not.",
    "warning",
)
def _distributed_with_rows(model: Model, event: Event) -> Iterator[Fault]:
    match event.action:
        case Distribute(function="create_distributed_table", table=name):
            table = model.find(name)
            if table is not None and (filled := table.filled) is not None:
                yield _event_fault(
                    event,
                    f"table {str(name)!r} already has rows ({filled.path}:{filled.line}): "
                    "moving them to the shards blocks all writers until the migration commits. "
                    "Distribute the table before it has rows, or use "
                    "create_distributed_table_concurrently.",
                )


@event_rule(
    "CA103",
    "A function of Citus in SQL text",
    "These functions exist only on Citus. Without the sequential mode of the operations, Citus "
    "refuses to create functions or types later in the same transaction.",
    "warning",
)
def _function_in_sql(_: Model, event: Event) -> Iterator[Fault]:
    match event:
        case Event(action=Distribute(function=function), in_sql=True):
            pass
        case Event(action=Undistribute(), in_sql=True):
            function = "undistribute_table"
        case _:
            return
    yield _event_fault(
        event,
        f"{function} is called in SQL text: this fails on a server without Citus, and later "
        "operations of the transaction may be refused after it. Use "
        f"op.{function}(...) of citus_analytics.migrations.",
    )


@event_rule(
    "CA104",
    "A migration without a way back",
    "For Alembic, an empty downgrade() is a success: the revision goes back, the schema does not, "
    "and the next upgrade fails.",
    "warning",
)
def _no_way_back(_: Model, event: Event) -> Iterator[Fault]:
    if isinstance(event.action, EndMigration) and event.action.irreversible:
        yield _event_fault(
            event,
            "downgrade() does nothing, while upgrade() does something: Alembic would report "
            "success and leave the schema as it is. Undo it, or raise NotImplementedError.",
        )


@event_rule(
    "CA105",
    "undistribute_table does not say how the table was distributed",
    "Without was= the operation cannot be reversed: nothing else says how to distribute the "
    "table again.",
    "warning",
)
def _undistributed_without_was(_: Model, event: Event) -> Iterator[Fault]:
    match event:
        case Event(action=Undistribute(table, reversible=False), in_sql=False, downgrade=False):
            yield _event_fault(
                event,
                f"undistribute_table({str(table)!r}) does not say how the table was distributed, "
                "so that it cannot be reversed. Give it was=Distributed(...) or Reference().",
            )


@event_rule(
    "CA106",
    "DO UPDATE or MERGE with a function that is not IMMUTABLE",
    "Citus refuses now() and the like in ON CONFLICT DO UPDATE, and in MERGE, on distributed and "
    "reference tables. PostgreSQL does not, so that tests without Citus pass.",
)
def _stable_upsert(model: Model, event: Event) -> Iterator[Fault]:
    match event.action:
        case Update(table, ("DO UPDATE" | "MERGE") as statement) if model.placement(table).spread:
            called = [one for one in event.action.functions if one in _STABLE | _VOLATILE]
            called += [function for function, _ in event.action.stable_calls(model)]
            if called:
                yield _event_fault(
                    event,
                    f"{statement} on table {str(table)!r} uses {called[0]}, which is not "
                    "IMMUTABLE: Citus refuses it. Insert the value, and use that of excluded (or "
                    "of the source of MERGE) instead.",
                )


@event_rule(
    "CA107",
    "UPDATE or DELETE with a VOLATILE function",
    "Every node would compute its own value, and copies of a reference table would differ.",
)
def _volatile_update(model: Model, event: Event) -> Iterator[Fault]:
    match event.action:
        case Update(table, ("UPDATE" | "DELETE") as statement) if model.placement(table).spread:
            called = [one for one in event.action.functions if one in _VOLATILE]
            if called:
                yield _event_fault(
                    event,
                    f"{statement} of table {str(table)!r} calls {called[0]}, which is VOLATILE: "
                    "every node would compute another value. Compute it in the client, or use "
                    "now().",
                )


@event_rule(
    "CA108",
    "The distribution column is changed",
    "The distribution column decides where rows are. It cannot be dropped, nor get another "
    "type, nor can a row get another value.",
)
def _distribution_column_changed(model: Model, event: Event) -> Iterator[Fault]:
    columns: tuple[str, ...] = ()
    match event.action:
        case DropColumn(table, column):
            columns = (column,)
        case AlterColumn(table, column, retyped=retyped) if retyped is not None:
            columns = (column,)
        case Update(table, columns=updated):
            columns = updated
        case _:
            return
    own = model.placement(table).column
    if own in columns:
        yield _event_fault(
            event,
            f"column {own!r} is the distribution column of table {str(table)!r}: Citus neither "
            "drops it, nor changes its type or its values. Undistribute the table first, or "
            "delete the rows and insert them again.",
        )


@event_rule(
    "CA109",
    "A serial or identity column is added to a distributed table",
    "Citus adds such columns only while a table is local.",
)
def _numbered_column_added(model: Model, event: Event) -> Iterator[Fault]:
    match event.action:
        case Extend(name, part) if (table := model.find(name)) and model.is_on_citus(table):
            if any(column.identity or column.serial for column in part.columns.values()):
                kind = table.placement.kind
                yield _event_fault(
                    event,
                    f"table {str(name)!r} is "
                    f"{'tied to a reference one' if kind == 'local' else kind}, and Citus adds no "
                    "serial or identity columns to such tables. Add a BIGINT column whose default "
                    "is nextval of a sequence.",
                )


@event_rule(
    "CA110",
    "A trigger on a table that is on several nodes",
    "Citus refuses triggers on distributed and reference tables, unless "
    "citus.enable_unsafe_triggers is on.",
)
def _trigger(model: Model, event: Event) -> Iterator[Fault]:
    if model.allows_triggers:
        return
    match event.action:
        case CreateTrigger(name) if model.placement(name).spread:
            pass
        case Distribute(name) if (table := model.find(name)) is not None and table.has_trigger:
            pass
        case _:
            return
    yield _event_fault(
        event,
        f"table {str(name)!r} has a trigger and is on several nodes, which Citus refuses. Drop the "
        "trigger; or, if it only touches rows of the same shard, SET LOCAL "
        "citus.enable_unsafe_triggers TO on first.",
    )


@event_rule(
    "CA111",
    "An exclusion constraint on an expression is added without a name",
    "Citus makes up a name from the columns, finds none for an expression, and the server "
    "crashes: all connections to the node are cut.",
)
def _unnamed_exclusion(model: Model, event: Event) -> Iterator[Fault]:
    match event.action:
        case Extend(table, part) if model.placement(table).spread:
            if any(key.name is None and key.has_expression for key in part.keys):
                yield _event_fault(
                    event,
                    f"the exclusion constraint that table {str(table)!r} gets has no name, and "
                    "compares an expression: Citus crashes, and with it all connections to the "
                    "node. Name it.",
                )


@event_rule(
    "CA112",
    "UPDATE or DELETE with a STABLE function of a column",
    "What depends on the settings of a session, such as a timestamptz plus an interval in its time "
    "zone, would have to be computed by the workers, whose sessions may have others.",
)
def _stable_of_column(model: Model, event: Event) -> Iterator[Fault]:
    match event.action:
        case Update(name, ("UPDATE" | "DELETE") as statement) if model.placement(name).spread:
            for function, column in event.action.stable_calls(model):
                yield _event_fault(
                    event,
                    f"{statement} of table {str(name)!r} uses {function} of column {column!r}, "
                    "which is STABLE: it depends on settings of the session, and Citus refuses it. "
                    "Convert times with AT TIME ZONE 'UTC' first, and the result back; join texts "
                    "with ||.",
                )
                return


@event_rule(
    "CA113",
    "UPDATE or DELETE with CASE or COALESCE of a function that is not IMMUTABLE",
    "Citus computes now() and the like once, before it sends the statement to the workers. It "
    "cannot do so in CASE and COALESCE, which may not evaluate them.",
)
def _stable_in_condition(model: Model, event: Event) -> Iterator[Fault]:
    match event.action:
        case Update(table, ("UPDATE" | "DELETE") as statement) if model.placement(table).spread:
            called = [one for one in event.action.conditional if one in _STABLE]
            if called:
                yield _event_fault(
                    event,
                    f"{statement} of table {str(table)!r} calls {called[0]} in CASE or COALESCE, "
                    "where Citus allows IMMUTABLE functions only. Use two statements with WHERE.",
                )


@event_rule(
    "CA114",
    "A column with a sequence for its default is added to a table with rows",
    "Existing rows would get their values on the workers. Citus adds such a column only "
    "while the table is empty.",
)
def _sequence_on_rows(model: Model, event: Event) -> Iterator[Fault]:
    match event.action:
        case Extend(name, part):
            table = model.find(name)
            if table is None or table.filled is None or not model.is_on_citus(table):
                return
            for column in part.columns.values():
                if column.sequence is not None and not (column.serial or column.identity):
                    yield _event_fault(
                        event,
                        f"column {column.name!r} takes its default from a sequence, and is added "
                        f"to table {str(name)!r}, which has rows "
                        f"({table.filled.path}:{table.filled.line}): Citus refuses it. Add the "
                        "column first, and set its default afterwards.",
                    )


@event_rule(
    "CA115",
    "A statement that columnar tables do not have",
    "Columnar storage is written to by INSERT and COPY alone: no UPDATE, DELETE, MERGE or ON "
    "CONFLICT, and no trigger for each row after the statement.",
)
def _change_of_columnar(model: Model, event: Event) -> Iterator[Fault]:
    match event.action:
        case Update(name, statement):
            what = f"ON CONFLICT {statement}" if statement.startswith("DO ") else statement
        case CreateTrigger(name, after_row=True):
            what = "a trigger AFTER ... FOR EACH ROW"
        case _:
            return
    table = model.find(name)
    if table is not None and table.columnar:
        yield _event_fault(
            event,
            f"table {str(name)!r} is columnar, and columnar storage does not have {what}. Change "
            "the rows before the table is made columnar, or store it as heap.",
        )


@event_rule(
    "CA117",
    "An ALTER TABLE that Citus does not support",
    "Citus passes on the changes that it knows, for distributed and reference tables and those "
    "tied to them, and refuses all others.",
)
def _unsupported_alter(model: Model, event: Event) -> Iterator[Fault]:
    match event.action:
        case AlterUnsupported(name, what=what):
            table = model.find(name)
        case AlterColumn(name, column_name, new_default=default) if default is not None:
            table = model.find(name)
            column = table.columns.get(column_name) if table is not None else None
            if column is not None and column.identity and not default.identity:
                what = "DROP IDENTITY"
            elif default.identity:
                what = "ADD GENERATED AS IDENTITY"
            else:
                return
        case _:
            return
    if table is not None and model.is_on_citus(table):
        yield _event_fault(
            event,
            f"table {str(name)!r} is on Citus, which does not support ALTER TABLE with {what}. Do "
            "it while the table is local, or leave it out; of several changes, make each a "
            "statement of its own, with a name for each constraint.",
        )


@event_rule(
    "CA118",
    "Something that a rollup uses is renamed or dropped",
    "The functions and triggers of a rollup have the names of its source, its tables and their "
    "columns. Every write to the source fails once one of them is gone.",
    "warning",
)
def _rollup_broken(model: Model, event: Event) -> Iterator[Fault]:
    column: str | None = None
    match event.action:
        case DropTable(name):
            done = "is dropped"
        case RenameTable(name):
            done = "is renamed"
        case DropColumn(name, column):
            done = "is dropped"
        case AlterColumn(name, column, new_name=str(new)) if new != column:
            done = "is renamed"
        case AlterColumn(name, column, retyped=retyped) if retyped is not None:
            done = "gets another type"
        case Distribute(name) | Undistribute(name) | AlterDistribution(name, column=str()):
            done = "is distributed in another way"
        case _:
            return
    for spec in model.rollups_with(name):
        if done == "is distributed in another way" and name.name != spec.source:
            continue
        if column is None:
            what = f"table {str(name)!r}"
        elif column in columns_of_rollups(spec, name.name):
            what = f"column {column!r} of table {str(name)!r}"
        else:
            continue
        yield _event_fault(
            event,
            f"{what} {done}, and the rollups of {spec.source!r} use it. Call op.drop_rollups "
            "first, and op.create_rollups with the new names afterwards, in the same migration.",
        )


@event_rule(
    "CA119",
    "Rollups that their tables cannot hold",
    "Rollups need the columns that they name, a time with a zone, and in each of their tables a "
    "unique key on the dimensions and the bucket alone.",
)
def _rollup_refused(model: Model, event: Event) -> Iterator[Fault]:
    # Of a way back, what the tables are by then is not known.
    if event.downgrade or not isinstance(event.action, CreateRollups):
        return
    spec = event.action.rollups
    schema = event.action.table.schema
    times = [(spec.source, spec.time)]
    times += [(target.table, target.bucket) for target in spec.targets]
    for table_name in dict.fromkeys((spec.source, *(target.table for target in spec.targets))):
        table = model.find(Name(schema, table_name))
        if table is not None and table.placement.kind != "unknown" and table.columns:
            for column in sorted(columns_of_rollups(spec, table_name) - set(table.columns)):
                yield _event_fault(
                    event,
                    f"the rollups use column {column!r} of table {table_name!r}, which is not "
                    "there. Create it first, or correct its name.",
                )
    for table_name, time in times:
        table = model.find(Name(schema, table_name))
        known = table.columns.get(time) if table is not None and time is not None else None
        if known is not None and known.type not in (None, "TIMESTAMP WITH TIME ZONE"):
            yield _event_fault(
                event,
                f"column {time!r} of table {table_name!r} is {known.type}, and rollups need a "
                "TIMESTAMP WITH TIME ZONE: without a zone a bucket would depend on the session.",
            )
    for message in _rollups_apart(model, spec, schema):
        yield _event_fault(event, message)
    for target in spec.targets:
        table = model.find(Name(schema, target.table))
        if table is None or table.placement.kind == "unknown" or not table.columns:
            continue
        if table.partitioned or table.columnar:
            kind = "partitioned" if table.partitioned else "columnar"
            yield _event_fault(
                event,
                f"table {target.table!r} of the rollups is {kind}: a run changes rows, which needs "
                "an ordinary table.",
            )
        own = columns_of_rollups(spec, target.table)
        for written in table.columns.values():
            if written.generated and written.name in own:
                yield _event_fault(
                    event,
                    f"column {written.name!r} of table {target.table!r} is generated, and a run of "
                    "the rollups could not write to it.",
                )
        if table.foreign_keys or any(model.referrers(table)):
            yield _event_fault(
                event,
                f"table {target.table!r} of the rollups has a foreign key, or is referred to by "
                "one, which could refuse a group. Drop it.",
            )
        group = {*target.by, target.bucket} - {None}
        if not any(set(key.columns) == group and not key.has_expression for key in table.keys):
            listed = ", ".join(repr(one) for one in (*target.by, target.bucket) if one)
            yield _event_fault(
                event,
                f"table {target.table!r} of the rollups has no unique key on {listed} alone: it "
                "keeps one row a group. Add one, with NULLS NOT DISTINCT if one of them may be "
                "NULL.",
            )


def _rollups_apart(model: Model, spec: RollupSpec, schema: str | None) -> Iterator[str]:
    """Yield which tables of rollups are not where their source is."""
    source = model.find(Name(schema, spec.source))
    if source is None or source.placement.kind == "unknown":
        return
    kind = source.placement.kind
    if kind == "reference" or (kind == "local" and model.is_on_citus(source)):
        which = "a reference table" if kind == "reference" else "tied to a reference table"
        yield (
            f"table {spec.source!r} is {which}, and rollups need a source that is distributed, or "
            "local by itself."
        )
        return
    if kind == "sharded" and source.placement.column != spec.key:
        yield (
            f"table {spec.source!r} is distributed by {source.placement.column!r}, and its rollups "
            f"were declared for {spec.key!r}. Generate them anew."
        )
        return
    for target in spec.targets:
        table = model.find(Name(schema, target.table))
        if table is None or table.placement.kind == "unknown":
            continue
        if kind == "local":
            if spec.key is None and table.placement.spread:
                yield f"table {target.table!r} must be local, as the source of its rollups is."
        elif not target.keyed:
            if table.placement.kind != "reference":
                yield (
                    f"table {target.table!r} does not have the distribution column of "
                    f"{spec.source!r} among its dimensions, and so must be a reference table."
                )
        elif table.placement.kind != kind or not _may_be_colocated(table, source):
            yield (
                f"table {target.table!r} must be colocated with {spec.source!r}, the source of its "
                "rollups: distribute it by the same key."
            )
        elif kind == "sharded" and target.by.get(table.placement.column or "") != "key":
            yield (
                f"table {target.table!r} is distributed by {table.placement.column!r}, and not by "
                f"the dimension that holds {spec.key!r} of {spec.source!r}."
            )


def columns_of_rollups(spec: RollupSpec, table: str) -> set[str]:
    """Return the columns of a table that rollups use, as far as they name them."""
    used: set[str | None] = set()
    if table == spec.source:
        used |= {spec.key, spec.time}
        for sql in spec.columns.values():
            for quoted, plain in re.findall(r'\br\.(?:"((?:[^"]|"")+)"|([a-z_][a-z0-9_$]*))', sql):
                used.add(quoted.replace('""', '"') or plain)
    for target in spec.targets:
        if table == target.table:
            used |= {*target.by, target.bucket, target.rows, *target.sums, *target.extremes}
    return {column for column in used if column is not None}


def _event_fault(event: Event, message: str) -> Fault:
    return Fault(message, event.revision, event.place)


TABLE_RULES: Final[tuple[TableRule, ...]] = (
    _unique_without_distribution_column,
    _exclusion_without_distribution_column,
    _distribution_column_only_included,
    _distributed_to_local,
    _not_colocated,
    _distribution_columns_not_paired,
    _replicated_to_distributed,
    _local_to_distributed,
    _reference_to_local_with_action,
    _action_on_distribution_column,
    _default_from_sequence,
    _identity_is_irreversible,
    _narrow_sequence,
    _sequence_of_two_types,
    _type_without_hash,
    _generated_distribution_column,
    _partners_differ,
    _no_such_partner,
    _single_shard,
    _narrow_identity,
    _partitioned_reference,
    _foreign_key_of_columnar,
    _index_of_columnar,
    _partitioned_columnar,
    _inheritance,
)
EVENT_RULES: Final[tuple[EventRule, ...]] = (
    _concurrently_in_transaction,
    _distributed_with_rows,
    _function_in_sql,
    _no_way_back,
    _undistributed_without_was,
    _stable_upsert,
    _volatile_update,
    _distribution_column_changed,
    _numbered_column_added,
    _trigger,
    _unnamed_exclusion,
    _stable_of_column,
    _stable_in_condition,
    _sequence_on_rows,
    _change_of_columnar,
    _unsupported_alter,
    _rollup_broken,
    _rollup_refused,
)

RULES: Final[dict[str, Rule]] = {
    rule.code: rule for rule in (UNUSED_IGNORE, *TABLE_RULES, *EVENT_RULES, PARALLEL_ENVIRONMENT)
}
