"""The SQL that keeps rollups: one log of differences for each source, and what adds it up.

> target = raw - log

Triggers on the source write each changed row into its log, with weight 1 for a row that came and -1
for one that went, projected to what its rollups need, in the transaction of the change. A run
deletes from the log, and a trigger on the log adds what was deleted to every target of the source:
all of them move together, or none. On Citus all of this happens on the shards, beside the data;
targets that do not contain the distribution column get their share through an outbox, which the
coordinator empties in the same transaction.

Reconciling a window adds `raw - log - target` to a target. It takes the lock that runs take, and
keeps no writer out: each shard looks at its rows and its log in one snapshot. With nothing added it
verifies, with it it repairs, and window by window it builds a rollup on a table that has rows.

Everything here is text, rendered from a frozen specification, so that a migration creates the same
for ever.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Final

from citus_analytics.errors import DeclarationError
from citus_analytics.sql import (
    HAS_CITUS,
    LONGEST_NAME,
    do_block,
    dollar_quote,
    indented,
    literal,
    on_citus,
    qualify,
    quote,
    refusal,
    sequential,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

# The longest suffix of the names that are derived from a table's.
LONGEST_BASE: Final = LONGEST_NAME - len("_capture_truncate")

# What the functions call transition tables and common table expressions.
_SHADOWED: Final = frozenset(
    ("_added", "_removed", "_drained", "_written", "_lost", "_hit", "_found", "_remaining")
)

# The suffixes of the names of functions.
_FUNCTIONS: Final = (
    *("capture", "absorb", "run", "run_batch", "reconcile", "backfill", "audit", "expire"),
    "sibling",
)

MARKER: Final = "Rollups of citus_analytics: "


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSpec:
    """A table of aggregates, in plain names; columns are those of the log.

    Attributes:
        rollup: The rollup that it belongs to.
        table: Its name.
        every: The width of its buckets, None without buckets.
        bucket: The column that holds the start of a bucket.
        by: The dimensions: the column of the log (or an SQL constant) by column of the table.
        rows: The column that counts the rows of a group.
        sums: What a row adds to each further column, an SQL expression over a row `l` of the log.
        extremes: `min` or `max` and the column of the log, by column of the table.
        visible: The measures, as SQL expressions over the other columns, for what reads the table
            and the log together.
        where: The column of the log that says whether a row counts.
        undated: Whether rows without a finite time count.
        keyed: Whether it is sharded like its source; otherwise it has a copy on every node.
        of: The table that it holds the values of a measure for, if it does: what does not subtract
            is a dimension, `_value`, whose groups are counted.
        value: The type of `_value`, and of nothing else.
        reads: What the values are read as, by measure: `distinct`, `approximate`, or a fraction of
            which the percentile is wanted.
    """

    rollup: str
    table: str
    every: str | None = None
    bucket: str | None = None
    by: Mapping[str, str] = field(default_factory=dict)
    rows: str
    sums: Mapping[str, str] = field(default_factory=dict)
    extremes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    visible: Mapping[str, str] = field(default_factory=dict)
    where: str | None = None
    undated: bool = False
    keyed: bool = True
    of: str | None = None
    value: str | None = None
    reads: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RollupSpec:
    """All rollups of one source, in plain names, as a migration freezes them.

    Attributes:
        source: The table of raw rows.
        schema: The schema of all tables, None for the first of the search path.
        key: The distribution column of the source, None if it is on no shards.
        time: The column that says when a row happened, None if no rollup has buckets.
        columns: The columns of the log: SQL expressions over a row `r` of the source.
        targets: The tables of aggregates.
        functions: Functions without arguments that run the rollups, for SQL.
        states: Tables that are told the minute of the last run, and their column.
        late: What becomes of changes for time that has been expired: `add` adds them to the
            aggregates, `refuse` leaves them out. They are counted.

    Raises:
        DeclarationError: The source's name is too long for the names derived from it.
    """

    source: str
    schema: str | None = None
    key: str | None = None
    time: str | None = None
    columns: Mapping[str, str]
    targets: tuple[TargetSpec, ...]
    functions: tuple[str, ...] = ()
    states: Mapping[str, str] = field(default_factory=dict)
    late: str = "add"

    def __post_init__(self) -> None:
        if len(self.source.encode()) > LONGEST_BASE:
            raise DeclarationError(
                f"table {self.source!r} has a name of {len(self.source.encode())} bytes; the names "
                f"derived from it fit into PostgreSQL's 63 only up to {LONGEST_BASE}."
            )
        for table in (self.source, *(target.table for target in self.targets), *self.states):
            if table in _SHADOWED:
                raise DeclarationError(
                    f"table {table!r} cannot have rollups or be one: their functions call "
                    "something else by that name."
                )
        for target in self.targets:
            if len(f"{target.table}_outbox".encode()) > LONGEST_NAME:
                raise DeclarationError(
                    f"rollup table {target.table!r} has a name of {len(target.table.encode())} "
                    f"bytes; the names derived from it fit into PostgreSQL's 63 only up to "
                    f"{LONGEST_NAME - len('_outbox')}."
                )
        for function in self.functions:
            if len(function.encode()) > LONGEST_NAME:
                raise DeclarationError(
                    f"function {function!r} has a name of {len(function.encode())} bytes; "
                    f"PostgreSQL has at most {LONGEST_NAME}."
                )

    def merged(self, other: RollupSpec) -> RollupSpec:
        """Return the rollups of both, which have one source, on one log."""
        columns = dict(self.columns)
        renamed: dict[str, str] = {}
        for name, expression in other.columns.items():
            known = next((n for n, found in columns.items() if found == expression), None)
            new = known or name
            while known is None and new in columns:
                new += "_"
            columns[new] = expression
            renamed[name] = new
        targets = [_renamed(target, renamed) for target in other.targets]
        return replace(
            self,
            time=self.time or other.time,
            columns=columns,
            targets=(*self.targets, *targets),
            functions=(*self.functions, *other.functions),
            states={**self.states, **other.states},
        )

    @property
    def log(self) -> str:
        """The name of the log."""
        return f"{self.source}_log"

    @property
    def state(self) -> str:
        """The name of the table of what is known of each rollup."""
        return f"{self.source}_rollups"

    @property
    def machinery(self) -> tuple[str, ...]:
        """The tables that no model declares."""
        outboxes = (f"{target.table}_outbox" for target in self.targets if not target.keyed)
        horizons = (self.horizon,) if self.late == "refuse" else ()
        return (self.log, self.state, *horizons, *outboxes)

    @property
    def horizon(self) -> str:
        """The name of the table that has the horizon on every node, where late rows are refused."""
        return f"{self.source}_horizon"

    @property
    def derived_relations(self) -> Mapping[str, str]:
        """What the relations are that are named after the source and its rollups, by name."""
        found = {self.log: "the log", self.state: "the state"}
        if self.late == "refuse":
            found[self.horizon] = "the horizon"
        for target in self.targets:
            if target.of is None:
                found[f"{target.table}_fresh"] = f"the fresh view of {target.table!r}"
            if not target.keyed:
                if target.of is None:
                    found[f"{target.table}_now"] = f"a view of {target.table!r}"
                found[f"{target.table}_outbox"] = f"the outbox of {target.table!r}"
        return found

    @property
    def derived_functions(self) -> Mapping[str, str]:
        """What the functions are that are named after the source and its rollups, by name."""
        found = {f"{self.source}_{suffix}": f"the function {suffix!r}" for suffix in _FUNCTIONS}
        for target in self.targets:
            if not target.keyed and target.of is None:
                found[f"{target.table}_rows"] = f"a function of {target.table!r}"
        return found

    def describe(self) -> str:
        """Return the description that the database keeps, without the schema: the table has one."""
        fields = asdict(self)
        del fields["schema"]
        return f"{MARKER}{json.dumps(fields, ensure_ascii=False)}"

    @classmethod
    def read(cls, comment: str, *, schema: str | None) -> RollupSpec | None:
        """Return what a description says, or None if it is none of ours."""
        if not comment.startswith(MARKER):
            return None
        try:
            fields = json.loads(comment.removeprefix(MARKER))
            targets = tuple(
                TargetSpec(
                    **{
                        **target,
                        "extremes": {n: tuple(pair) for n, pair in target["extremes"].items()},
                    }
                )
                for target in fields["targets"]
            )
            fields |= {"targets": targets, "functions": tuple(fields["functions"])}
            return cls(**fields, schema=schema)
        except (ValueError, TypeError, KeyError):
            # Somebody has edited it, or a later release writes something else.
            return None


def _renamed(target: TargetSpec, names: Mapping[str, str]) -> TargetSpec:
    def expression(sql: str) -> str:
        for old, new in names.items():
            sql = sql.replace(f"l.{quote(old)}", f"l.\0{quote(new)}")
        return sql.replace("\0", "")

    return replace(
        target,
        by={column: names.get(logged, logged) for column, logged in target.by.items()},
        sums={column: expression(sql) for column, sql in target.sums.items()},
        extremes={c: (kind, names[logged]) for c, (kind, logged) in target.extremes.items()},
        where=None if target.where is None else names[target.where],
    )


# The column of the values that a measure is computed from, where it is not added up; and the
# column of the one group of a rollup that has neither dimensions nor buckets.
VALUE: Final = "_value"
TOTAL: Final = "_total"

# Expressions.

# Shards, whose names only the server knows, stand in a statement as what no name can contain.
_SOURCE, _LOG, _TARGET, _OUTBOX = "\0source", "\0log", "\0target", "\0outbox"
_HORIZON: Final = "\0horizon"

_WIDTH = re.compile(r"(\d+) (second|minute|hour|day)s?")


def bucket_of(every: str, time: str) -> str:
    """Return the start of the bucket of a time, with the width that `Every` writes.

    Times at the edges of the type are in buckets of their own: PostgreSQL cannot bin them.
    """
    fixed = _WIDTH.fullmatch(every)
    if fixed:
        binned = f"date_bin(interval '{every}', {time}, timestamptz '1970-01-01 00:00:00+00')"
    else:
        unit, _, zone = every.removeprefix("1 ").partition(" at ")
        binned = f"date_trunc({literal(unit)}, {time}, {literal(zone or 'UTC')})"
        if zone and unit != "hour":
            binned = _instant(
                f"date_trunc({literal(unit)}, {time} AT TIME ZONE {literal(zone)})", zone
            )
    return (
        f"CASE WHEN {time} > '4700-01-01 00:00:00+00 BC' AND {time} < '290000-01-01 00:00:00+00' "
        f"THEN {binned} ELSE {time} END"
    )


def _instant(local: str, zone: str) -> str:
    """Return when a local time is, for the first time: clocks that are set back have it twice.

    Of these PostgreSQL takes the second, and a day that starts at the second midnight would start
    behind its first hour. The moment after the one before is the first, unless clocks that are set
    forward have skipped that one: then the time itself is there once, and is earlier.
    """
    shift = "interval '1 microsecond'"
    at_zone = f"AT TIME ZONE {literal(zone)}"
    return f"least(({local}) {at_zone}, (({local}) - {shift}) {at_zone} + {shift})"


def bucket_end(every: str, bucket: str) -> str:
    """Return the end of the bucket that starts at a time, infinity at the edges of the type."""
    unit, _, zone = every.removeprefix("1 ").partition(" at ")
    if _WIDTH.fullmatch(every):
        end = f"{bucket} + interval '{every}'"
    elif unit == "hour":
        end = f"{bucket} + interval '1 hour'"
    else:
        width = {"quarter": "3 months"}.get(unit, f"1 {unit}")
        local = f"{bucket} AT TIME ZONE {literal(zone or 'UTC')}"
        # Where midnight is skipped, a day starts later.
        local = f"date_trunc({literal(unit)}, {local}) + interval '{width}'"
        end = _instant(local, zone or "UTC")
    return (
        f"CASE WHEN {bucket} > '4700-01-01 00:00:00+00 BC' AND "
        f"{bucket} < '290000-01-01 00:00:00+00' THEN {end} ELSE 'infinity' END"
    )


def bucket_at_or_after(every: str, time: str) -> str:
    """Return the start of the first bucket that does not start before a time."""
    start = f"({bucket_of(every, time)})"
    return f"CASE WHEN {start} = {time} THEN {time} ELSE {bucket_end(every, start)} END"


def _listed(parts: Iterable[str]) -> str:
    return ", ".join(parts)


def _named(expressions: Iterable[str], names: Iterable[str]) -> str:
    """Return expressions under names, as SELECT lists them."""
    return _listed(f"{sql} AS {name}" for sql, name in zip(expressions, names, strict=True))


class Target:
    """The parts of the statements about one target, over rows of the log under an alias."""

    def __init__(self, spec: RollupSpec, target: TargetSpec) -> None:
        self.spec = spec
        self.target = target
        self.keyed = target.keyed
        # In the order of its index, so that a bulk of new groups is appended to it.
        key = spec.key
        self.by = dict(sorted(target.by.items(), key=lambda item: item[0] != key))
        self.group = [quote(column) for column in self.by]
        if target.bucket is not None:
            self.group.insert(
                1 if self.group and next(iter(self.by)) == key else 0, quote(target.bucket)
            )
        self.additive = [quote(target.rows), *map(quote, target.sums)]
        self.extremes = [quote(column) for column in target.extremes]

        values = {
            quote(column): logged if logged == "true" else f"l.{quote(logged)}"
            for column, logged in self.by.items()
        }
        if target.bucket is not None and target.every is not None:
            values[quote(target.bucket)] = bucket_of(target.every, "l.at")
        # Over a row `l` of the log: its group, what it adds to each additive column, and whether
        # it counts.
        self.groups = [values[column] for column in self.group]
        self.weights = ["l.n", *(f"l.n * ({sql})" for sql in target.sums.values())]
        conditions = [] if target.where is None else [f"l.{quote(target.where)}"]
        if not target.undated:
            conditions.append("l.at IS NOT NULL")
        if target.value is not None:
            conditions.append(f"l.{quote(self.by[VALUE])} IS NOT NULL")
        self.counts = " AND ".join(conditions) or "true"

    def empty(self, alias: str) -> str:
        """Return the condition that nothing is left of a group of a table.

        Between batches a group may have no rows, and a sum of what has gone before it came.
        """
        return " AND ".join(f"{alias}.{column} = 0" for column in self.additive)

    def weight(self, alias: str) -> str:
        """Return how many rows of a group a row of the table `t` or of the log `l` stands for."""
        return f"t.{quote(self.target.rows)}" if alias == "t" else "l.n"

    def same(self, left: str, right: str) -> str:
        """Return the condition that two rows are of one group, NULLs included.

        It consists of equalities, which an index serves, and IS NOT DISTINCT FROM does not.
        """
        target, never = self.target, set()
        if target.bucket is not None and not target.undated:
            never.add(quote(target.bucket))
        conditions = [
            f"{left}.{c} = {right}.{c}"
            if c in never
            else f"({left}.{c} = {right}.{c} OR {left}.{c} IS NULL AND {right}.{c} IS NULL)"
            for c in self.group
        ]
        if self.spec.key is not None and target.keyed:
            # This one can be hashed, and the type of a distribution column too.
            key = quote(next(iter(self.by)))
            hashes = (f"hash_record_extended(ROW({each}.{key}), 0)" for each in (left, right))
            conditions.append(" = ".join(hashes))
        return " AND ".join(conditions)


def projection(spec: RollupSpec) -> list[tuple[str, str]]:
    """Return the columns of the log, and how each is computed from a row `r` of the source."""
    time = f"r.{quote(spec.time)}" if spec.time is not None else "NULL::timestamptz"
    at = f"CASE WHEN isfinite({time}) THEN {time} END" if spec.time is not None else time
    columns = [("at", at)]
    if spec.key is not None:
        columns.append(("key", f"r.{quote(spec.key)}"))
    columns += ((quote(name), sql) for name, sql in spec.columns.items())
    return columns


def raw_rows(spec: RollupSpec, source: str, weight: str = "1") -> str:
    """Return the rows of a source as rows of the log."""
    columns = _listed(f"{sql} AS {name}" for name, sql in projection(spec))
    return f"SELECT {weight} AS n, {columns} FROM {source} AS r"


def _not_refused(spec: RollupSpec, horizon: str) -> str:
    """Return the condition that a row of the source has not come too late, or an empty text.

    A row from before the horizon may have been refused: it is not in the aggregates.
    """
    if spec.late != "refuse" or spec.time is None:
        return ""
    return f"(r.{quote(spec.time)} < (SELECT max(e.horizon) FROM {horizon} AS e)) IS NOT TRUE"


def _wanted(spec: RollupSpec) -> str:
    """Return the condition that some rollup counts a row of the log, as a WHERE clause."""
    wheres = set()
    for target in spec.targets:
        if target.where is None and target.undated:
            return ""
        wheres.add(Target(spec, target).counts)
    return "WHERE " + " OR ".join(sorted(wheres))


# The functions.

# Who does not see all rows must not add up some of them: row level security is an error then.
# Compiling a plan costs more than a run of it.
# Citus sends times to the shards as the session writes them, and each of these reads them in its
# own way: only ISO is read as it was meant.
_ISO: Final = " SET datestyle = 'ISO'"
_SETTINGS: Final = f"SET jit = off SET row_security = off{_ISO}"


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the machinery.

    Attributes:
        name: Its name, not quoted.
        arguments: The types of its arguments, as its signature has them.
        head: What stands between its name and its body.
        body: Its body, as the database keeps it.
        own_path: Whether it sets its search path; otherwise it has that of what calls it.
    """

    name: str
    arguments: str
    head: str
    body: str
    own_path: bool = True

    def create(self, schema: str | None) -> str:
        """Return the statement that creates it."""
        body = dollar_quote(self.body, "function")
        return f"CREATE FUNCTION {qualify(self.name, schema)}{self.head} AS {body}"


def functions(spec: RollupSpec, *, sharded: bool) -> tuple[Function, ...]:
    """Return the functions, in the order in which they can be created.

    Those of a source on shards find the shards beside the one that they run on; they are not the
    same as those of a table on one node, whose plans the server keeps.
    """
    found = [
        _capture(spec, sharded=sharded),
        _absorb(spec, sharded=sharded),
        _run(spec, sharded=sharded),
        _run(spec, sharded=sharded, batch=True),
        _reconcile(spec, sharded=sharded),
        _backfill(spec),
        _audit(spec),
        _expire(spec),
    ]
    if sharded:
        found.insert(0, _sibling(spec))
    for name in spec.functions:
        body = f"\nBEGIN\n  PERFORM {quote(f'{spec.source}_run')}();\nEND\n"
        found.append(Function(name, "", "()\nRETURNS void LANGUAGE plpgsql", body))
    return tuple(found)


def _sibling(spec: RollupSpec) -> Function:
    # Shards are hidden in pg_class, but not from regclass.
    body = """
-- The shard of `wanted` beside the shard `relation` of `owner`; `wanted` itself beside `owner`
-- itself, which is so once the tables have been undistributed; NULL beside anything else.
DECLARE
  is_shard boolean;
  found text;
BEGIN
  IF relation = owner::oid THEN
    RETURN wanted;
  END IF;
  SELECT true, shard_name(other.logicalrelid, other.shardid) INTO is_shard, found
  FROM pg_dist_shard AS s LEFT JOIN pg_dist_shard AS other
    ON other.logicalrelid = wanted AND other.shardminvalue IS NOT DISTINCT FROM s.shardminvalue
  WHERE s.logicalrelid = owner
    AND s.shardid = substring(relation::regclass::text FROM '_([0-9]+)"?$')::bigint
    -- Others may name a table of theirs so that it ends in that number.
    AND relation = to_regclass(shard_name(s.logicalrelid, s.shardid));
  IF is_shard AND found IS NULL THEN
    RAISE EXCEPTION 'no shard of % is beside %, a shard of %', wanted, relation::regclass, owner;
  END IF;
  RETURN found;
END
"""
    name = f"{spec.source}_sibling"
    head = "(relation oid, owner regclass, wanted regclass)\nRETURNS text LANGUAGE plpgsql STABLE"
    return Function(name, "oid, regclass, regclass", head, body)


def _on_shards(
    statement: str, tag: str, shards: Mapping[str, str], *, into: str = "", using: str = ""
) -> str:
    """Return the PL/pgSQL statement that executes a template with the names of shards."""
    template = statement.replace("%", "%%")
    for position, shard in enumerate(shards, start=1):
        template = template.replace(shard, f"%{position}$s")
    values = "".join(f", {value}" for value in shards.values())
    into, using = into and f" INTO {into}", using and f" USING {using}"
    return f"EXECUTE format({dollar_quote(template, tag)}{values}){into}{using};"


def _in_place(statement: str, names: Mapping[str, str]) -> str:
    for placeholder, name in names.items():
        statement = statement.replace(placeholder, name)
    return f"{statement};"


def _regclass(name: str) -> str:
    return f"{literal(quote(name))}::regclass"


def _only_shard(table: str) -> str:
    """Return the name of the shard of a reference table, as an expression."""
    return (
        "(SELECT shard_name(s.logicalrelid, s.shardid) FROM pg_dist_shard AS s "
        f"WHERE s.logicalrelid = {_regclass(table)})"
    )


def _capture(spec: RollupSpec, *, sharded: bool) -> Function:
    columns = [name for name, _ in projection(spec)]
    wanted = _wanted(spec)
    refused = spec.late == "refuse" and spec.time is not None

    def log(rows: str, weight: str, *, expired: bool = False) -> str:
        using = ["edge"] if refused else []
        if expired:
            using.append("expired")
            limit = f"${len(using)}" if sharded else "_vars.expired"
            time = f"r.{quote(spec.time or '')}"
            rows += (
                f"\n      WHERE (isfinite({time}) AND extract(epoch FROM {time}) < {limit}) "
                "IS NOT TRUE"
            )
        if refused:
            edge = "$1" if sharded else "_vars.edge"
            weight = f"CASE WHEN l.at < {edge} THEN 0 ELSE {weight} END"
        statement = (
            f"INSERT INTO {_LOG} (n, {_listed(columns)})\n"
            f"    SELECT {weight}, {_listed(f'l.{name}' for name in columns)}\n"
            f"    FROM ({rows}) AS l {wanted}"
        )
        if sharded:
            return _on_shards(statement, "log", {_LOG: "log"}, using=_listed(using))
        return _in_place(statement, {_LOG: quote(spec.log)})

    # Of a table that is emptied, one row for each combination is enough.
    names = _listed(f"l.{name}" for name in columns)
    weight = "-count(*)::integer"
    if refused:
        weight = f"CASE WHEN l.at < _vars.edge THEN 0 ELSE {weight} END"
    emptied = (
        f"INSERT INTO {quote(spec.log)} (n, {_listed(columns)})\n    SELECT {weight}, {names} "
        f"FROM ({raw_rows(spec, quote(spec.source))}) AS l {wanted} GROUP BY {names};"
    )
    find = lock = edge = ""
    # Where the source has been renamed, its owner tells.
    stranger = (
        f"coalesce(to_regclass({literal(quote(spec.source))}) <> TG_RELID,\n"
        "    (SELECT pg_get_userbyid(c.relowner) <> current_user FROM pg_catalog.pg_class AS c\n"
        "     WHERE c.oid = TG_RELID))"
    )
    if refused:
        edge = f"  edge := (SELECT max(s.horizon) FROM {quote(spec.state)} AS s);\n"
    if sharded:
        stranger = f"log IS NULL AND {stranger}"
        find = (
            f"  log := {quote(f'{spec.source}_sibling')}(TG_RELID, {_regclass(spec.source)}, "
            f"{_regclass(spec.log)});\n"
        )
        if refused:
            edge = f"""\
  EXECUTE format('SELECT max(horizon) FROM %s', {_only_shard(spec.horizon)}) INTO edge;
"""
        # TRUNCATE is for the whole table to log; shards have a trigger of their own for it once
        # they have been split. Nobody may write to them, through any node, between here and there.
        # The statements of another role go over connections of their own, which wait for it.
        lock = f"""IF TG_RELID <> {_regclass(spec.source)}::oid THEN
      RETURN NULL;
    END IF;
    IF current_user <> coalesce(nullif(current_setting('role'), 'none'), session_user) THEN
      RAISE EXCEPTION 'table % has rollups, and is truncated by its owner % alone on Citus',
        TG_RELID::regclass, current_user USING HINT = 'SET ROLE to the owner, or use DELETE.';
    END IF;
    LOCK TABLE {quote(spec.source)} IN ACCESS EXCLUSIVE MODE;
    {_lock_shards("TG_RELID", quote(spec.log))}
    """
    declared, removed = "", log(raw_rows(spec, "_removed"), "-1")
    if spec.time is None:
        removed = f"""\
  IF TG_OP <> 'INSERT' THEN
    {removed}
  END IF;"""
    else:
        declared = """
  expire text := current_setting('citus_analytics.expire', true);
  expired numeric;"""
        removed = f"""\
  -- Rows that are expired leave without a trace: their aggregates stay. What goes or changes with
  -- them, by a foreign key or another trigger, is a change like every other.
  IF TG_OP = 'DELETE' AND expire <> '' THEN
    IF expire LIKE '% %' AND substr(expire, strpos(expire, ' ') + 1)
        = concat_ws(' ', quote_ident(TG_TABLE_SCHEMA), {literal(spec.source)}) THEN
      expired := split_part(expire, ' ', 1)::numeric;
    END IF;
  END IF;
  IF expired IS NOT NULL THEN
    {log(raw_rows(spec, "_removed"), "-1", expired=True)}
  ELSIF TG_OP <> 'INSERT' THEN
    {removed}
  END IF;"""
    body = f"""
#variable_conflict use_column
<<_vars>>
DECLARE
  log text;
  edge timestamptz;{declared}
BEGIN
{find}  -- It has its owner's rights: on tables of others it would run what their types cast with.
  IF {stranger} THEN
    RAISE EXCEPTION 'this trigger function is for another table than %', TG_RELID::regclass
      USING HINT = 'If its shards are being made anew just now, write again.';
  END IF;
{edge}  IF TG_OP = 'TRUNCATE' THEN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
      RAISE EXCEPTION 'table % has rollups, and cannot be truncated in a transaction that is %',
        TG_RELID::regclass, upper(current_setting('transaction_isolation'))
        USING HINT = 'Rows that it does not see would stay in the rollups. '
                     'Use READ COMMITTED, or DELETE.';
    END IF;
    {lock}{emptied}
    RETURN NULL;
  END IF;
  IF TG_OP <> 'DELETE' THEN
    {log(raw_rows(spec, "_added"), "1")}
  END IF;
{removed}
  RETURN NULL;
END
"""
    head = "()\nRETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET jit = off"
    if sharded and refused:
        head += _ISO
    return Function(f"{spec.source}_capture", "", head, body)


def _absorb(spec: RollupSpec, *, sharded: bool) -> Function:
    """Return the trigger function on the log: it adds what was deleted from it to the targets."""
    owner = _regclass(spec.log)

    def beside(table: str) -> str:
        return f"{quote(f'{spec.source}_sibling')}(TG_RELID, {owner}, {_regclass(table)})"

    parts = []
    for target in spec.targets:
        part = Target(spec, target)
        columns = [*part.group, *part.additive, *part.extremes]
        selected = [*part.groups, *(f"sum({weight})" for weight in part.weights)]
        selected += (
            f"{kind}(l.{quote(column)}) FILTER (WHERE l.n > 0)"
            for kind, column in target.extremes.values()
        )
        changed = " OR ".join(f"sum({weight}) <> 0" for weight in part.weights)
        if target.extremes:
            changed += " OR bool_or(l.n > 0)"
        positions = _positions(part.group)
        grouped = (
            f"SELECT {_listed(selected)} FROM _drained AS l WHERE {part.counts} "
            f"GROUP BY {positions} HAVING {changed}"
        )
        if sharded and not target.keyed:
            statement = (
                f"INSERT INTO {_OUTBOX} (_key, {_listed(columns)})\n"
                f"    SELECT (SELECT key FROM _drained LIMIT 1), g.* FROM ({grouped}) AS g"
            )
            outbox = beside(f"{target.table}_outbox")
            parts.append("  " + _on_shards(statement, "outbox", {_OUTBOX: outbox}))
            continue
        write = f"""WITH _written AS (
      INSERT INTO {_TARGET} AS t ({_listed(columns)})
      {grouped} ORDER BY {positions}
      ON CONFLICT ({_listed(part.group)}) DO UPDATE SET {_listed(_added(part))}
      RETURNING t.ctid, {part.empty("t")} AS _empty
    ) SELECT array_agg(w.ctid) FILTER (WHERE w._empty)"""
        if sharded:
            shards = {_TARGET: "shard"}
            absorb = [
                f"shard := {beside(target.table)};",
                _on_shards(f"{write} FROM _written AS w", "absorb", shards, into="dead"),
            ]
            remove = _on_shards(
                f"DELETE FROM {_TARGET} WHERE ctid = ANY($1)", "dead", shards, using="dead"
            )
        else:
            table = {_TARGET: quote(target.table)}
            absorb = [_in_place(f"{write} INTO dead FROM _written AS w", table)]
            remove = _in_place(f"DELETE FROM {_TARGET} WHERE ctid = ANY(_vars.dead)", table)
        parts.append(
            "  " + "\n  ".join(absorb) + f"\n  IF dead IS NOT NULL THEN\n    {remove}\n  END IF;"
        )
        if target.extremes:
            parts.append(_recompute_extremes(part, sharded=sharded))
    declared, lock = "dead tid[];", ""
    if sharded:
        declared += "\n  shard text;"
        lock = f"""\
  IF current_setting('citus_analytics.lock', true) = 'on' THEN
    shard := {beside(spec.source)};
    {_on_shards(f"LOCK TABLE {_SOURCE} IN SHARE ROW EXCLUSIVE MODE", "lock", {_SOURCE: "shard"})}
  END IF;
"""
    statements = "\n".join(parts)
    body = f"""
#variable_conflict use_column
<<_vars>>
DECLARE
  {declared}
BEGIN
{lock}  IF NOT EXISTS (SELECT FROM _drained) THEN
    RETURN NULL;
  END IF;
{statements}
  RETURN NULL;
END
"""
    # Settings cost as much as a group. On shards it is called in sessions of other nodes, elsewhere
    # by a run, whose settings it has.
    head = "()\nRETURNS trigger LANGUAGE plpgsql"
    if sharded:
        head += " SET jit = off"
    return Function(f"{spec.source}_absorb", "", head, body, own_path=sharded)


def _positions(columns: Iterable[str]) -> str:
    return _listed(str(number) for number, _ in enumerate(columns, start=1))


def _added(part: Target) -> Iterator[str]:
    """Yield the assignments that add a group to the one that is there."""
    for column in part.additive:
        yield f"{column} = t.{column} + excluded.{column}"
    for column, (kind, _) in zip(part.extremes, part.target.extremes.values(), strict=True):
        function = "least" if kind == "min" else "greatest"
        yield f"{column} = {function}(t.{column}, excluded.{column})"


def _extremes(part: Target, sides: str | None = None) -> str:
    """Return the query for the smallest and largest values of groups, by group.

    The values of a group are those of its raw rows less those of its log: what has been absorbed.
    `_rows_found` says how many rows those are: fewer than the group has, if some have been expired.

    Args:
        part: The target.
        sides: The rows of the source and, with a negative weight, those of the log, as `_values`
            lists them; those of a window if it is None.
    """
    group, where, by = _listed(part.group), "", [*part.group, *_value_names(part).values()]
    if sides is None:
        sides = _sides(part, _values(part, "l.n"), _values(part, "-l.n"))
        where = _window(part)
        if part.spec.key is not None:
            by.append("_window_key")
    names = _value_names(part)
    extremes = _named(
        (f"{kind}({names[column]})" for kind, column in part.target.extremes.values()),
        part.extremes,
    )
    return f"""SELECT {group}, {extremes}, sum(_weight) AS _rows_found FROM (
        SELECT {_listed(by)}, sum(_weight) AS _weight FROM (
          {sides}
        ) AS u {where} GROUP BY {_listed(by)} HAVING sum(_weight) > 0
      ) AS _remaining GROUP BY {group}"""


def _value_names(part: Target) -> dict[str, str]:
    """Return names for the values whose extremes are kept, by the column of the log."""
    logged = dict.fromkeys(column for _, column in part.target.extremes.values())
    return {column: f"_v{number}" for number, column in enumerate(logged)}


def _values(part: Target, weight: str) -> list[str]:
    """Return the group, the values and the weight of a row of the log, as SELECT lists them."""
    values = _value_names(part)
    return [
        *(f"{sql} AS {name}" for sql, name in zip(part.groups, part.group, strict=True)),
        *(f"l.{quote(column)} AS {name}" for column, name in values.items()),
        f"{weight} AS _weight",
    ]


def _recompute_extremes(part: Target, *, sharded: bool) -> str:
    """Return the statement that computes groups anew that have lost a smallest or largest value.

    A group of which rows have been expired keeps what it has: the source does not know better.
    """
    spec, target = part.spec, part.target
    names = _value_names(part)
    lost = [
        f"{kind}(d.{names[value]}) {'<=' if kind == 'min' else '>='} min(t.{column})"
        for column, (kind, value) in zip(part.extremes, target.extremes.values(), strict=True)
    ]
    conditions = [each for each in [_not_refused(spec, _HORIZON)] if each]
    if target.bucket is not None and target.every is not None and spec.time is not None:
        time, bucket = f"r.{quote(spec.time)}", f"h.{quote(target.bucket)}"
        if not target.undated:
            conditions.append(
                f"{time} >= (SELECT min({bucket}) FROM _hit AS h) AND {time} < "
                f"(SELECT max({bucket_end(target.every, bucket)}) FROM _hit AS h)"
            )
    raw_where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    raw = f"({raw_rows(spec, _SOURCE)}{raw_where})"
    sides = (
        f"SELECT {_listed(_values(part, 'l.n'))} FROM {raw} AS l WHERE {part.counts}\n"
        f"          UNION ALL\n          SELECT {_listed(_values(part, '-l.n'))} "
        f"FROM {_LOG} AS l WHERE {part.counts}"
    )
    found = _extremes(part, sides)
    values = _listed(f"l.{quote(column)} AS {name}" for column, name in names.items())
    statement = f"""WITH _lost AS (
      SELECT {_named(part.groups, part.group)}, {values}
      FROM _drained AS l WHERE l.n < 0 AND {part.counts}
    ), _hit AS MATERIALIZED (
      SELECT {_listed(f"t.{c}" for c in part.group)}
      FROM _lost AS d JOIN {_TARGET} AS t ON {part.same("t", "d")}
      GROUP BY {_listed(f"t.{c}" for c in part.group)} HAVING {" OR ".join(lost)}
    ), _found AS (
      {found}
    )
    UPDATE {_TARGET} AS t SET {_listed(f"{c} = f.{c}" for c in part.extremes)}
    FROM _hit AS h JOIN _found AS f ON {part.same("f", "h")}
    WHERE {part.same("t", "h")} AND f._rows_found >= t.{quote(target.rows)}"""
    if not sharded:
        tables = {
            _TARGET: target.table,
            _SOURCE: spec.source,
            _LOG: spec.log,
            _HORIZON: spec.horizon,
        }
        return "  " + _in_place(statement, {k: quote(v) for k, v in tables.items()})
    find, owner = quote(f"{spec.source}_sibling"), _regclass(spec.log)
    shards = {
        _TARGET: "shard",
        _SOURCE: f"{find}(TG_RELID, {owner}, {_regclass(spec.source)})",
        _LOG: "TG_RELID::regclass",
    }
    if spec.late == "refuse":
        shards[_HORIZON] = _only_shard(spec.horizon)
    return "  " + _on_shards(statement, "extremes", shards)


def _current(spec: RollupSpec) -> str:
    """Return the statement that refuses to compute from raw rows that are not those of now.

    To an older snapshot a table that has been rewritten since, or a shard that has been moved, is
    empty.
    """
    return f"""\
  IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
    RAISE EXCEPTION 'rollups of % cannot be computed in a transaction that is %',
      {literal(spec.source)}, upper(current_setting('transaction_isolation'))
      USING HINT = 'Use READ COMMITTED.', ERRCODE = 'object_not_in_prerequisite_state';
  END IF;"""


def _lock_shards(source: str, log: str) -> str:
    """Return the statement that locks the shards of a source, whose table is locked; if any.

    A session that is killed as it commits loses its lock of the table, and what it has written may
    yet be committed on a shard, where it still holds its locks. The trigger of the log waits for it
    there: it fires on each shard, even if nothing is deleted.
    """
    return f"""\
IF {HAS_CITUS} THEN
      IF EXISTS (SELECT FROM pg_catalog.pg_dist_partition AS p WHERE p.logicalrelid = {source}) THEN
        {_on_all_nodes("citus_analytics.lock", "'on'")}
        DELETE FROM {log} AS l WHERE l.ctid = '(0,0)';
        {_on_all_nodes("citus_analytics.lock", "''")}
      END IF;
    END IF;"""


def _on_all_nodes(setting: str, value: str) -> str:
    """Return the statement that sets something for the transaction, on all nodes.

    Citus tells other nodes in a transaction block or a DO block, and not in a function that a
    single statement calls. Whether it tells them of what comes after that is left as it was.
    """
    tell = (
        "DECLARE was text := current_setting('citus.propagate_set_commands', true); "
        f"BEGIN SET LOCAL citus.propagate_set_commands = local; SET LOCAL {setting} = %L; "
        "PERFORM set_config('citus.propagate_set_commands', coalesce(was, 'none'), true); END"
    )
    return f"EXECUTE format('DO %L', format({literal(tell)}, {value}));"


def _lock(spec: RollupSpec, *, attempt: bool = False) -> str:
    """Return the call that keeps runs of one source apart."""
    name = f"pg_{'try_' if attempt else ''}advisory_xact_lock"
    return f"{name}{lock_key(quote(spec.source))}"


def lock_key(source: str) -> str:
    """Return the key of the lock of a source, which is named as by `qualify`."""
    return f"(hashtext('citus_analytics.rollups'), {literal(source)}::regclass::oid::integer)"


CHANNEL: Final = "citus_analytics"
"""Where a run publishes what it has moved, for LISTEN."""

# Pages of the log that one batch takes, of all shards together.
_BATCH: Final = 1000


def _run(spec: RollupSpec, *, sharded: bool, batch: bool = False) -> Function:
    """Return the function that empties the log into the targets, or one batch of it."""
    absorb, settings = _drain(spec, sharded=sharded, batch=batch)
    declare = """\
DECLARE
  started timestamptz := clock_timestamp();
  edge timestamptz;
  too_late bigint := 0;
  _window_oldest timestamptz;
  _window_known timestamptz;
  _window_lost boolean;
  _window_style text;
"""
    lock = f"""\
  IF wait THEN
    PERFORM {_lock(spec)};
  ELSIF NOT {_lock(spec, attempt=True)} THEN
    RETURN;
  END IF;"""
    if not batch:
        body = f"""
-- Adds what is in the log to every rollup of the source, and returns how many changes that were;
-- NULL if another run is under way and not waited for.
#variable_conflict use_column
<<_vars>>
{declare}BEGIN
{lock}
{absorb}
END
"""
        head = f"(wait boolean DEFAULT true, OUT changes bigint)\nLANGUAGE plpgsql {settings}"
        return Function(f"{spec.source}_run", "boolean", head, body)
    pages = f"pg_relation_size({_regclass(spec.log)})"
    if sharded:
        pages = (
            f"(SELECT max(s.result::bigint) FROM run_command_on_shards({_regclass(spec.log)}, "
            "'SELECT pg_relation_size(''%s'')') AS s)"
        )
    more = ""
    if not _reads_raw(spec):
        more = f"""\
  IF (page + width) * current_setting('block_size')::bigint < {pages} THEN
    next_page := page + width;
  END IF;
"""
    shards = f"(SELECT count(*) FROM pg_dist_shard WHERE logicalrelid = {_regclass(spec.log)})"
    width = f"greatest({_BATCH} / {shards}, 1)" if sharded else str(_BATCH)
    body = f"""
-- The same for a part of the log, from a page of each of its shards on; `next_page` is where to go
-- on, NULL at its end. Where smallest or largest values are kept, the part is all of it.
#variable_conflict use_column
<<_vars>>
{declare}  width bigint := {width};
BEGIN
{lock}
{absorb}
{more}END
"""
    head = (
        "(page bigint, wait boolean DEFAULT true, OUT changes bigint, OUT next_page bigint)\n"
        f"LANGUAGE plpgsql {settings}"
    )
    return Function(f"{spec.source}_run_batch", "bigint, boolean", head, body)


def _reads_raw(spec: RollupSpec) -> bool:
    """Whether a run may have to look at the source, for the next smallest or largest value."""
    return any(target.extremes for target in spec.targets)


def _drain(spec: RollupSpec, *, sharded: bool, batch: bool) -> tuple[str, str]:
    """Return the statements that empty the log into the targets, and the settings they need."""
    log, state = quote(spec.log), quote(spec.state)
    outboxes = []
    for target in spec.targets:
        if target.keyed or not sharded:
            continue
        part = Target(spec, target)
        columns = [*part.group, *part.additive, *part.extremes]
        outbox = quote(f"{target.table}_outbox")
        table = quote(target.table)
        sums = [*part.group, *(f"sum({c})" for c in part.additive)]
        sums += (
            f"{kind}({c})"
            for c, (kind, _) in zip(part.extremes, target.extremes.values(), strict=True)
        )
        outboxes.append(f"""
    CREATE TEMPORARY TABLE _arrived (LIKE {outbox});
    WITH arrived AS (DELETE FROM {outbox} RETURNING *)
    INSERT INTO pg_temp._arrived SELECT * FROM arrived;
    INSERT INTO {table} AS t ({_listed(columns)})
    SELECT {_listed(sums)} FROM pg_temp._arrived GROUP BY {_positions(part.group)}
    ON CONFLICT ({_listed(part.group)}) DO UPDATE SET {_listed(_added(part))};
    DELETE FROM {table} AS t WHERE {part.empty("t")};
    DROP TABLE pg_temp._arrived;""")
    states = "".join(
        f"""
  DELETE FROM {quote(table)} AS s WHERE s.{quote(column)} <> date_trunc('minute', now());
  INSERT INTO {quote(table)} ({quote(column)}) VALUES (date_trunc('minute', now()))
  ON CONFLICT DO NOTHING;"""
        for table, column in spec.states.items()
    )
    reads_raw = _reads_raw(spec)
    before = late = ""
    # A value that comes in a later batch than it goes would stay the largest for ever.
    pages = []
    if batch and not reads_raw:
        pages = [
            "l.ctid >= format('(%s,0)', $1)::tid",
            "l.ctid < format('(%s,0)', $1 + _vars.width)::tid",
        ]
    if reads_raw:
        # First a lock on the source: TRUNCATE takes it before it writes to the log.
        before = f"""\
{_current(spec)}
  PERFORM FROM {quote(spec.source)} WHERE false;
"""
    if spec.time is not None:
        came_late = "l.n = 0" if spec.late == "refuse" else "l.at < _vars.edge"
        late = f"""\
  edge := (SELECT max(s.horizon) FROM {state} AS s);
  IF edge IS NOT NULL THEN
    DELETE FROM {log} AS l WHERE {" AND ".join([*pages, came_late])};
    GET DIAGNOSTICS too_late = ROW_COUNT;
  END IF;{_note_partitions(spec)}
"""
    wheres = f" AS l WHERE {' AND '.join(pages)}" if pages else ""
    # Committed notifications wait for the slowest listener of the server: a run must not fail where
    # one keeps the queue full. And what has notified cannot be prepared: that turns it off.
    publish = f"""
  IF changes > 0 AND pg_notification_queue_usage() < 0.5
      AND current_setting('citus_analytics.notify', true) IS DISTINCT FROM 'off' THEN
    PERFORM pg_notify({literal(CHANNEL)}, json_build_object('schema', n.nspname,
      'source', c.relname, 'changes', changes, 'started', started)::text)
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = {_regclass(spec.source)};
  END IF;"""
    absorb = f"""\
{before}{late}  DELETE FROM {log}{wheres};
  GET DIAGNOSTICS changes = ROW_COUNT;
  changes := changes + too_late;
  IF changes > 0 AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger AS g
      WHERE g.tgrelid = {_regclass(spec.log)} AND g.tgname = {literal(f"{spec.source}_absorb")}
        AND (g.tgenabled = 'A' OR g.tgenabled = 'O'
             AND current_setting('session_replication_role') <> 'replica')) THEN
    RAISE EXCEPTION 'changes of % cannot be added up: the trigger of its log does not fire',
      {literal(spec.source)} USING HINT =
        'Enable its triggers, and run in a session whose session_replication_role is origin.';
  END IF;
  IF changes > 0 THEN{"".join(outboxes) or " NULL;"}
  END IF;
  UPDATE {state} AS s SET last_run = started, duration = clock_timestamp() - started,
    absorbed = changes, late = s.late + too_late, failed_at = NULL,
    error = NULL;{states}{publish}"""
    settings = "SET jit = off"
    if reads_raw:
        settings += " SET row_security = off"
    if sharded:
        settings += _ISO
    return absorb, settings


def _window(part: Target) -> str:
    """Return the condition that a row of `u` counts and is in a window, as a WHERE clause.

    The window is from `_window_since` to `_window_until`. Rows without a time belong to the window
    that has no beginning.
    """
    if part.target.bucket is None or part.spec.time is None:
        return "WHERE u._window_counts"
    # Rows without a time may not count, but the target may have them from before, when they did.
    window = (
        "(u._window_time >= _window_since AND u._window_time < _window_until "
        "OR _window_since = '-infinity' AND isfinite(u._window_time) IS NOT TRUE)"
    )
    return f"WHERE u._window_counts AND {window}"


def _sides(part: Target, added: Iterable[str], removed: Iterable[str]) -> str:
    """Return the rows of the source and, taken off again, those of the log, for `_window`.

    Citus reads both by one statement on each shard, in one snapshot, if the key is among the
    columns, the types are the same, and no row is left out here.
    """
    spec = part.spec
    time = "NULL::timestamptz" if spec.time is None else f"r.{quote(spec.time)}"
    raw = _listed(f"{sql} AS {name}" for name, sql in projection(spec))
    raw = f"SELECT 1 AS n, {raw}, {time} AS _window_time FROM {quote(spec.source)} AS r"
    key = "" if spec.key is None else "l.key AS _window_key, "
    return (
        f"SELECT {key}{_listed(added)}, {part.counts} AS _window_counts, l._window_time\n"
        f"      FROM ({raw}) AS l\n"
        f"      UNION ALL SELECT {key}{_listed(removed)}, {part.counts}, l.at\n"
        f"      FROM {quote(spec.log)} AS l"
    )


def _difference(part: Target) -> str:
    """Return the query for `raw - log - target` of a window, by group."""
    spec, target = part.spec, part.target
    columns = [*part.group, *part.additive]
    added, removed = (
        [*(f"{sql} AS {c}" for sql, c in zip(part.groups, part.group, strict=True))]
        + [
            f"({sign}{sql})::numeric AS {c}"
            for sql, c in zip(part.weights, part.additive, strict=True)
        ]
        for sign in ("", "-")
    )
    positions = _listed(str(i + 1) for i in range(len(part.group)))
    sums = _listed(
        [*(f"u.{c}" for c in part.group), *(f"sum(u.{c}) AS {c}" for c in part.additive)]
    )
    nonzero = " OR ".join(f"sum(u.{c}) <> 0" for c in part.additive)
    sides, window = _sides(part, added, removed), _window(part)
    stored = [
        *(f"t.{c}" for c in part.group),
        *(f"(-t.{c})::numeric AS {c}" for c in part.additive),
    ]
    time = "NULL::timestamptz" if target.bucket is None else f"t.{quote(target.bucket)}"
    stored += ["true AS _window_counts", f"{time} AS _window_time"]
    if target.keyed:
        key = "" if spec.key is None else f"t.{quote(next(iter(part.by)))}, "
        return (
            f"SELECT {sums} FROM (\n      {sides}\n      UNION ALL SELECT {key}{_listed(stored)} "
            f"FROM {quote(target.table)} AS t\n    ) AS u {window}\n    "
            f"GROUP BY {positions} HAVING {nonzero}"
        )
    # A reference table is compared where it is, with what all shards have summed up.
    return (
        f"WITH raw AS MATERIALIZED (\n      SELECT {sums} FROM (\n      {sides}\n      ) AS u "
        f"{window} GROUP BY {positions}\n    )\n"
        f"    SELECT {sums} FROM (SELECT {_listed(columns)} FROM raw UNION ALL\n"
        f"      SELECT {_listed(columns)} FROM (SELECT {_listed(stored)} "
        f"FROM {quote(target.table)} AS t) AS u {window}\n    ) AS u "
        f"GROUP BY {positions} HAVING {nonzero}"
    )


def _reconcile(spec: RollupSpec, *, sharded: bool) -> Function:
    branches = []
    for target in spec.targets:
        part = Target(spec, target)
        columns = [*part.group, *part.additive]
        difference, table = _difference(part), quote(target.table)
        group = " || ', ' || ".join(
            f"{literal(column + ' = ')} || coalesce(d.{column}::text, 'NULL')"
            for column in part.group
        )
        off = _listed(f"{literal(c + ' ')} || d.{c}" for c in part.additive)
        added = _listed(f"{c} = t.{c} + excluded.{c}" for c in part.additive)
        align = fix = count = ""
        if target.every is not None:
            align = f"""
    IF _window_since IS NULL AND isfinite(_window_horizon) THEN
      _window_since := {bucket_at_or_after(target.every, "_window_horizon")};
    ELSIF isfinite(_window_since) THEN
      _window_since := {bucket_of(target.every, "_window_since")};
    END IF;
    IF isfinite(_window_until) THEN
      _window_until := {bucket_at_or_after(target.every, "_window_until")};
    END IF;"""
        if target.extremes:
            found = _extremes(part)
            same = part.same("t", "f")
            if sharded and target.keyed and spec.key is not None:
                key = next(iter(part.by))
                same += f" AND t.{quote(key)} = f.{quote(key)}"
            differs = " OR ".join(f"t.{c} IS DISTINCT FROM f.{c}" for c in part.extremes)
            with_found = "WITH _found AS MATERIALIZED" if not target.keyed else "WITH _found AS"
            fix = f"""
      {with_found} ({found})
      UPDATE {table} AS t SET {_listed(f"{c} = f.{c}" for c in part.extremes)}
      FROM _found AS f WHERE {same} AND ({differs});
      GET DIAGNOSTICS extremes = ROW_COUNT;"""
            count = f"""
      {with_found} ({found})
      SELECT count(*) INTO extremes FROM {table} AS t JOIN _found AS f ON {same}
      WHERE {differs};"""
        first = "coalesce(_window_since, '-infinity')" if target.every else "'-infinity'"
        branches.append(f"""_window_target = {literal(target.table)} THEN{align}
    _window_since := {first};
    _window_until := coalesce(_window_until, 'infinity');
    IF _window_since < _window_horizon THEN
      RAISE EXCEPTION 'rollup % cannot be compared with its source before %',
        _window_target, _window_horizon
        USING HINT = 'Rows from before that time have been expired: the source is not complete.',
              ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    -- Of statements that no row can fit Citus makes ones with a syntax error.
    IF _window_since >= _window_until THEN
      groups := 0;
      RETURN;
    END IF;
    IF repair THEN
      INSERT INTO {table} AS t ({_listed(columns)})
      {difference}
      ON CONFLICT ({_listed(part.group)}) DO UPDATE SET {added};
      GET DIAGNOSTICS groups = ROW_COUNT;
      DELETE FROM {table} AS t WHERE {part.empty("t")};{fix}
    ELSE
      SELECT count(*), (array_agg({group} || ': ' || array_to_string(ARRAY[{off}], ', ')))[1:10]
      INTO groups, examples
      FROM ({difference}) AS d;{count}
    END IF;
    groups := groups + extremes;""")
    bound = ""
    if spec.time is not None:
        bound = _note_partitions(spec)
    missing = f"there is no rollup table % of {spec.source.replace('%', '%%')}"
    body = f"""
-- Compares a window of a rollup with its source, or adds the difference to it; returns how many
-- groups differ, and some of them in words, as what is missing in the rollup. A window is as wide
-- as the buckets that it touches.
#variable_conflict use_column
DECLARE
  _window_horizon timestamptz;
  _window_oldest timestamptz;
  _window_known timestamptz;
  _window_lost boolean;
  _window_style text;
  extremes bigint := 0;
BEGIN
{_current(spec)}
  PERFORM {_lock(spec)};{bound}
  _window_horizon := (SELECT s.horizon FROM {quote(spec.state)} AS s
                      WHERE s.target = _window_target);
  IF {" ELSIF ".join(branches)}
  ELSE
    RAISE EXCEPTION {literal(missing)}, _window_target
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
END
"""
    head = (
        """(
  _window_target text, _window_since timestamptz, _window_until timestamptz, repair boolean,
  OUT groups bigint, OUT examples text[]
) LANGUAGE plpgsql """
        + _SETTINGS
    )
    arguments = "text, timestamptz, timestamptz, boolean"
    return Function(f"{spec.source}_reconcile", arguments, head, body)


def _backfill(spec: RollupSpec) -> Function:
    reconcile = quote(f"{spec.source}_reconcile")
    state, source = quote(spec.state), quote(spec.source)
    buckets = [literal(target.table) for target in spec.targets if target.every is not None]
    bucketed = f"one.target IN ({_listed(buckets)})" if buckets else "false"
    # Where the bucket that a window starts in begins.
    starts = "since"
    if buckets:
        cases = " ".join(
            f"WHEN {literal(target.table)} THEN {bucket_of(target.every, 'since')}"
            for target in spec.targets
            if target.every is not None
        )
        starts = f"(CASE WHEN isfinite(since) THEN CASE one.target {cases} END ELSE since END)"
    if spec.time is None:
        newest = "    since := '-infinity';"
    else:
        time = quote(spec.time)
        newest = f"""\
    SELECT max(r.{time}) INTO newest
    FROM {source} AS r WHERE isfinite(r.{time}) AND r.{time} < mark;
    -- In numbers: times and intervals overflow.
    since := CASE WHEN extract(epoch FROM newest) - extract(epoch FROM width) > -210000000000
      THEN date_trunc('day', newest, 'UTC') - (width - interval '1 day') ELSE '-infinity' END;"""
    body = f"""
-- Adds up the newest window of what was there when rollups were created, and is not in them yet.
-- Nothing is left to do where `worked` is false.
#variable_conflict use_variable
DECLARE
  mark timestamptz;
  newest timestamptz;
  one record;
BEGIN
  PERFORM {_lock(spec)};
  SELECT max(s.complete_since) INTO mark FROM {state} AS s;
  worked := mark > '-infinity';
  IF worked THEN
    width := greatest(width, interval '1 day');
{newest}
    FOR one IN SELECT s.target, s.horizon FROM {state} AS s WHERE s.complete_since >= mark LOOP
      -- Before the horizon there is nothing to add up: the aggregates stay as they are.
      IF one.horizon IS NULL OR {bucketed} THEN
        PERFORM {reconcile}(one.target, CASE WHEN {starts} < one.horizon THEN NULL
          ELSE since END, mark, true);
      END IF;
    END LOOP;
    UPDATE {state} AS s SET complete_since = since WHERE s.complete_since >= mark;
    until := CASE WHEN isfinite(mark) THEN mark END;
    since := CASE WHEN isfinite(since) THEN since END;
  END IF;
END
"""
    head = (
        """(
  width interval, OUT worked boolean, OUT since timestamptz, OUT until timestamptz
) LANGUAGE plpgsql """
        + _SETTINGS
    )
    return Function(f"{spec.source}_backfill", "interval", head, body)


def _oldest_partition(spec: RollupSpec) -> str:
    """Return the statements that find the lower bound of the oldest partition of the source.

    It is NULL unless the source is partitioned by ranges of the time column, and -infinity where
    one has no beginning. A default partition does not count: it is not what is dropped.
    """
    return f"""-- The server writes a bound in the style of the session, with its ambiguous zones.
    _window_style := current_setting('DateStyle');
    PERFORM set_config('DateStyle', 'ISO', true);
    _window_oldest := (
    SELECT min(CASE WHEN bound LIKE 'FOR VALUES FROM (''%'
                 THEN split_part(bound, '''', 2)::timestamptz ELSE '-infinity' END)
           FILTER (WHERE bound <> 'DEFAULT')
    FROM pg_catalog.pg_partitioned_table AS p
    JOIN pg_catalog.pg_attribute AS a
      ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
    JOIN pg_catalog.pg_inherits AS i ON i.inhparent = p.partrelid
    JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid,
      pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS bound
    WHERE p.partrelid = {_regclass(spec.source)} AND p.partstrat = 'r' AND p.partnatts = 1
      AND a.attname = {literal(spec.time or "")});
    PERFORM set_config('DateStyle', _window_style, true);"""


def _note_partitions(spec: RollupSpec) -> str:
    """Return the statements that move the horizon when partitions have been dropped.

    What was before the oldest partition has gone with it: the source is not complete there.
    """
    state, log = quote(spec.state), quote(spec.log)
    return f"""
  IF EXISTS (SELECT FROM pg_catalog.pg_partitioned_table AS p
             WHERE p.partrelid = {_regclass(spec.source)}) THEN
    {_oldest_partition(spec)}
    _window_known := (SELECT max(s.oldest_partition) FROM {state} AS s);
    IF _window_oldest IS DISTINCT FROM _window_known THEN
      IF current_setting('transaction_read_only') = 'on' THEN
        RAISE EXCEPTION 'the oldest partition of % is another one since the last run',
          {literal(spec.source)} USING HINT = 'A read-only transaction cannot note it: run the '
            'rollups first.', ERRCODE = 'object_not_in_prerequisite_state';
      END IF;
      -- Without a partition that was known, what is pending tells.
      _window_lost := false;
      IF _window_known IS NULL AND EXISTS (SELECT FROM pg_catalog.pg_partitioned_table AS p
          WHERE p.partrelid = {_regclass(spec.source)} AND p.partdefid = 0) THEN
        PERFORM 1 FROM {log} AS l WHERE l.at < _window_oldest LIMIT 1;
        _window_lost := FOUND;
      END IF;
      UPDATE {state} AS s SET oldest_partition = _window_oldest, horizon = CASE
        WHEN _window_lost OR coalesce(_window_oldest, now()) > _window_known
          THEN greatest(s.horizon, coalesce(_window_oldest, now()))
        ELSE s.horizon END;{_note_horizon(spec)}
    END IF;
  END IF;"""


def _audit(spec: RollupSpec) -> Function:
    reconcile, state = quote(f"{spec.source}_reconcile"), quote(spec.state)
    source, branches = quote(spec.source), []
    for target in spec.targets:
        table = quote(target.table)
        if target.every is None or target.bucket is None or spec.time is None:
            # Totals over all time have one window; once rows have been expired, none.
            branches.append(f"""audited = {literal(target.table)} THEN
    IF isfinite(known.horizon) THEN
      RETURN;
    END IF;
    since := '-infinity';
    until := 'infinity';""")
            continue
        bucket, time = quote(target.bucket), quote(spec.time)
        branches.append(f"""audited = {literal(target.table)} THEN
    -- The newest window first, joined to what is proved already; then back to the oldest row.
    until := coalesce(known.audited_since, 'infinity');
    SELECT max(v.newest) INTO newest FROM (
      SELECT max(r.{time}) FROM {source} AS r WHERE isfinite(r.{time}) AND r.{time} < until
      UNION ALL
      SELECT max(t.{bucket}) FROM {table} AS t WHERE isfinite(t.{bucket}) AND t.{bucket} < until
    ) AS v (newest);
    since := coalesce(least(newest, now()), now()) - width;
    IF NOT isfinite(until) THEN
      since := least(since, known.proved_until);
    END IF;
    since := {bucket_of(target.every, "since")};
    IF since <= known.horizon THEN
      since := {bucket_at_or_after(target.every, "known.horizon")};
      oldest := since;
    ELSE
      oldest := least((SELECT min(r.{time}) FROM {source} AS r WHERE isfinite(r.{time})),
                      (SELECT min(t.{bucket}) FROM {table} AS t WHERE isfinite(t.{bucket})));
      IF oldest IS NULL OR since <= oldest THEN
        since := '-infinity';
      END IF;
    END IF;
    done := since = '-infinity' OR since = oldest;""")
    missing = f"there is no rollup table % of {spec.source.replace('%', '%%')}"
    body = f"""
-- Verifies one window of a rollup, the next of a round that goes from the newest rows back to the
-- oldest, and notes from when to when the rollup is proved to equal its source. Returns the window,
-- how many groups differ in it, and some of them in words; `done` at the end of a round.
#variable_conflict use_variable
DECLARE
  known record;
  oldest timestamptz;
  newest timestamptz;
BEGIN
  PERFORM {_lock(spec)};
  SELECT * INTO known FROM {state} AS s WHERE s.target = audited;
  done := true;
  IF known.complete_since > '-infinity' THEN
    RAISE EXCEPTION 'rollup % cannot be audited before it is complete', audited
      USING HINT = 'Backfill the rollups first.', ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  IF {" ELSIF ".join(branches)}
  ELSE
    RAISE EXCEPTION {literal(missing)}, audited
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  IF since >= until THEN
    -- Rows of the next window have been expired meanwhile.
    groups := 0;
    since := until;
  ELSE
    SELECT r.groups, r.examples INTO groups, examples
    FROM {reconcile}(audited, since, until, false) AS r;
  END IF;
  UPDATE {state} AS s SET
    audited_since = CASE WHEN done THEN NULL ELSE since END,
    proved_since = CASE
      WHEN since = until THEN s.proved_since
      WHEN groups = 0 AND s.proved_since <= until AND s.proved_until >= since
        THEN least(s.proved_since, since)
      WHEN groups = 0 THEN since
      WHEN s.proved_until > until THEN until END,
    proved_until = CASE
      WHEN since = until THEN s.proved_until
      WHEN groups = 0 AND s.proved_since <= until AND s.proved_until >= since
        THEN greatest(s.proved_until, least(until, now()))
      WHEN groups = 0 THEN least(until, now())
      WHEN s.proved_until > until THEN s.proved_until END
  WHERE s.target = audited;
  since := CASE WHEN isfinite(since) THEN since END;
  until := CASE WHEN isfinite(until) THEN until END;
END
"""
    head = (
        """(
  audited text, width interval, OUT since timestamptz, OUT until timestamptz, OUT groups bigint,
  OUT examples text[], OUT done boolean
) LANGUAGE plpgsql """
        + _SETTINGS
    )
    return Function(f"{spec.source}_audit", "text, interval", head, body)


def _note_horizon(spec: RollupSpec) -> str:
    """Return the statements that bring the horizon to all nodes, where late rows are refused."""
    if spec.late != "refuse":
        return ""
    horizon, state = quote(spec.horizon), quote(spec.state)
    return f"""
  DELETE FROM {horizon};
  INSERT INTO {horizon} SELECT max(s.horizon) FROM {state} AS s;"""


def _own_schema(spec: RollupSpec) -> str:
    """Return the name of the schema of the source, as an expression."""
    return (
        "(SELECT c.relnamespace::regnamespace FROM pg_catalog.pg_class AS c "
        f"WHERE c.oid = {_regclass(spec.source)})"
    )


def _expire(spec: RollupSpec) -> Function:
    state, source = quote(spec.state), quote(spec.source)
    time = quote(spec.time or "")
    if spec.time is None:
        work = (
            "  RAISE EXCEPTION 'the rollups of this table have no time to expire rows by'\n"
            "    USING ERRCODE = 'object_not_in_prerequisite_state';"
        )
    else:
        expired = (
            f"concat_ws(' ', extract(epoch FROM oldest), {_own_schema(spec)}, "
            f"{literal(spec.source)})"
        )
        work = f"""\
  PERFORM {_lock(spec)};
  IF EXISTS (SELECT FROM {state} AS s WHERE s.complete_since > '-infinity') THEN
    RAISE EXCEPTION 'rows cannot be expired before they are in the rollups'
      USING HINT = 'Backfill the rollups first.', ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  PERFORM {quote(f"{spec.source}_run")}();
  UPDATE {state} AS s SET horizon = greatest(s.horizon, before);{_note_horizon(spec)}
  SELECT min(r.{time}) INTO oldest
  FROM {source} AS r WHERE isfinite(r.{time}) AND r.{time} < before;
  IF oldest IS NOT NULL THEN
    -- In numbers: times and intervals overflow.
    oldest := CASE WHEN extract(epoch FROM oldest) + extract(epoch FROM width)
      < extract(epoch FROM before) THEN least(oldest + width, before) ELSE before END;
    -- In numbers, which no session writes in another way.
    {_on_all_nodes("citus_analytics.expire", expired)}
    DELETE FROM {source} AS r WHERE r.{time} < oldest AND isfinite(r.{time});
    GET DIAGNOSTICS deleted = ROW_COUNT;
    {_on_all_nodes("citus_analytics.expire", "''")}
  END IF;"""
    body = f"""
-- Deletes the oldest rows from before a time, and keeps their aggregates; NULL if there are none.
#variable_conflict use_variable
DECLARE
  oldest timestamptz;
BEGIN
{work}
END
"""
    head = "(before timestamptz, width interval, OUT deleted bigint)\nLANGUAGE plpgsql " + _SETTINGS
    return Function(f"{spec.source}_expire", "timestamptz, interval", head, body)


# Creating all of it, and dropping it.

# The columns of the table of what is known of each rollup.
STATE_COLUMNS: Final[Mapping[str, str]] = {
    "target": "text PRIMARY KEY",
    "last_run": "timestamptz",
    "duration": "interval",
    "absorbed": "bigint",
    "failed_at": "timestamptz",
    "error": "text",
    "complete_since": "timestamptz",
    "horizon": "timestamptz",
    "late": "bigint NOT NULL DEFAULT 0",
    "oldest_partition": "timestamptz",
    "audited_since": "timestamptz",
    "proved_since": "timestamptz",
    "proved_until": "timestamptz",
    "shape": "text NOT NULL",
}

# When a capturing trigger fires, and the transition tables that its statement offers.
_CAPTURES: Final = {
    "INSERT": ("AFTER", "REFERENCING NEW TABLE AS _added "),
    "UPDATE": ("AFTER", "REFERENCING OLD TABLE AS _removed NEW TABLE AS _added "),
    "DELETE": ("AFTER", "REFERENCING OLD TABLE AS _removed "),
    "TRUNCATE": ("BEFORE", ""),
}

# Triggers on distributed tables are "unsafe" to Citus because they may touch other nodes; ours
# touch the colocated shards beside them alone.
_PREPARE: Final = on_citus(f"""
{sequential()}
PERFORM set_config('citus.enable_unsafe_triggers', 'on', true);
-- Citus sends the times in a view to the nodes as the session writes them. It reads them as before.
PERFORM set_config(
  'DateStyle', regexp_replace(current_setting('DateStyle'), '^[A-Za-z]+', 'ISO'), true);
""")


def create(spec: RollupSpec) -> tuple[str, ...]:
    """Return the statements that create the machinery of a source's rollups, in order."""
    source, log, state = (
        qualify(name, spec.schema) for name in (spec.source, spec.log, spec.state)
    )
    key = f"r.{quote(spec.key)} AS key, " if spec.key is not None else ""
    time = f"r.{quote(spec.time)}" if spec.time is not None else "NULL::timestamptz"
    columns = "".join(f", {sql} AS {quote(name)}" for name, sql in spec.columns.items())
    statements = [
        _PREPARE,
        _check(spec),
        *_check_immutable(spec),
        # The server knows best which types the expressions have. The log is emptied again and
        # again: what remains of it is cleaned soon.
        f"CREATE TABLE {log} WITH (autovacuum_vacuum_scale_factor = 0, "
        "autovacuum_vacuum_threshold = 1000) AS\n"
        f"SELECT 1::integer AS n, {key}{time} AS at{columns} FROM {source} AS r WITH NO DATA",
        f"CREATE TABLE IF NOT EXISTS {state} (\n  "
        + ",\n  ".join(f"{column} {kind}" for column, kind in STATE_COLUMNS.items())
        + "\n)",
        # One that was kept may have been damaged by hand.
        f"ALTER TABLE {state} "
        + ", ".join(
            f"ADD COLUMN IF NOT EXISTS {column} {kind}"
            for column, kind in STATE_COLUMNS.items()
            if "DEFAULT" in kind or " " not in kind
        ),
    ]
    statements.append(_check_types(spec))
    for target in spec.targets:
        if not target.keyed:
            part = Target(spec, target)
            listed = _listed(f"t.{c}" for c in [*part.group, *part.additive, *part.extremes])
            statements.append(
                f"CREATE TABLE {qualify(f'{target.table}_outbox', spec.schema)} AS\n"
                f"SELECT {'NULL::bigint' if spec.key is None else f'r.{quote(spec.key)}'} AS _key, "
                f"{listed}\n"
                f"FROM {source} AS r, {qualify(target.table, spec.schema)} AS t WITH NO DATA"
            )
    if spec.late == "refuse":
        statements.append(
            f"CREATE TABLE {qualify(spec.horizon, spec.schema)} AS\n"
            f"SELECT max(s.horizon) AS horizon FROM {state} AS s"
        )
    statements.append(_identify(spec))
    statements.append(_distribute_beside(spec))
    statements.append(_create_functions(spec))
    capture = qualify(f"{spec.source}_capture", spec.schema)
    statements += (
        f"CREATE TRIGGER {quote(f'{spec.source}_capture_{event.lower()}')} {when} {event} ON "
        f"{source} {transitions}FOR EACH STATEMENT EXECUTE FUNCTION {capture}()"
        for event, (when, transitions) in _CAPTURES.items()
    )
    statements.append(
        f"CREATE TRIGGER {quote(f'{spec.source}_absorb')} AFTER DELETE ON {log} REFERENCING OLD "
        f"TABLE AS _drained FOR EACH STATEMENT EXECUTE FUNCTION "
        f"{qualify(f'{spec.source}_absorb', spec.schema)}()"
    )
    statements += (_create_fresh(spec, target) for target in spec.targets if target.of is None)
    statements.append(_register(spec))
    if spec.time is not None:
        oldest = _oldest_partition(spec).replace(
            _regclass(spec.source), f"{literal(source)}::regclass"
        )
        statements.append(
            do_block(
                f"{oldest}\nUPDATE {state} SET oldest_partition = _window_oldest;",
                declare=("_window_oldest timestamptz", "_window_style text"),
            )
        )
    statements += (
        f"COMMENT ON {kind} {qualify(name, spec.schema)}{arguments} IS {literal(spec.describe())}"
        for kind, name, arguments in described(spec)
    )
    return tuple(statements)


def described(spec: RollupSpec) -> tuple[tuple[str, str, str], ...]:
    """Return what carries the description of the rollups: kind, name, and arguments if it has any.

    One of them would do. With three of them, whichever is dropped by hand is missed. Citus makes
    new tables when it changes their distribution, and forgets comments: the log has none.
    """
    return (
        ("FUNCTION", f"{spec.source}_run", "(boolean)"),
        ("FUNCTION", f"{spec.source}_capture", "()"),
        ("TABLE", spec.state, ""),
    )


def _create_fresh(spec: RollupSpec, target: TargetSpec) -> str:
    """Return the statement that creates the fresh view of a table."""
    query = read(spec, target)
    view, now = (qualify(f"{target.table}_{suffix}", spec.schema) for suffix in ("fresh", "now"))
    plain = f"CREATE VIEW {view} AS\n{query}"
    if target.keyed:
        return plain
    # While a run commits on several nodes, what it has taken from their logs may be in the table
    # not yet. A read waits for it, in a function: its query sees what is there after the wait.
    source = qualify(spec.source, spec.schema)
    key = lock_key(source)
    body = f"""
BEGIN
  PERFORM pg_advisory_lock_shared{key};
  BEGIN
    RETURN QUERY SELECT * FROM {now};
  EXCEPTION WHEN query_canceled OR OTHERS THEN
    PERFORM pg_advisory_unlock_shared{key};
    RAISE;
  END;
  -- Not at the end of the transaction: runs would wait for that.
  PERFORM pg_advisory_unlock_shared{key};
END
"""
    rows = qualify(f"{target.table}_rows", spec.schema)
    # Of columns and not of the view's type, which Citus takes for a circular dependency when it
    # distributes a table anew.
    function = (
        f"CREATE FUNCTION {rows.replace('%', '%%')}() RETURNS TABLE (%s) LANGUAGE plpgsql{_ISO} AS "
        f"{dollar_quote(body, 'rows').replace('%', '%%')}"
    )
    # Whoever reads the view may have another search path.
    path = f"ALTER FUNCTION {rows.replace('%', '%%')}() SET search_path = pg_catalog, %s, pg_temp"
    columns = (
        "(SELECT string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), "
        "', ' ORDER BY a.attnum)\n   FROM pg_catalog.pg_attribute AS a\n"
        f"   WHERE a.attrelid = {literal(now)}::regclass AND a.attnum > 0)"
    )
    return do_block(
        "IF to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL THEN\n"
        "  sharded := EXISTS (SELECT FROM pg_catalog.pg_dist_partition\n"
        f"    WHERE logicalrelid = {literal(source)}::regclass);\nEND IF;\n"
        "IF sharded THEN\n"
        f"EXECUTE {dollar_quote(f'CREATE VIEW {now} AS{chr(10)}{query}', 'step')};\n"
        f"EXECUTE format({dollar_quote(function, 'step')}, {columns});\n"
        f"EXECUTE format({dollar_quote(path, 'step')}, {_search_path(spec)});\n"
        f"EXECUTE {dollar_quote(f'CREATE VIEW {view} AS SELECT * FROM {rows}()', 'step')};\n"
        f"ELSE\nEXECUTE {dollar_quote(plain, 'step')};\nEND IF;",
        declare=("sharded boolean := false",),
    )


def views(spec: RollupSpec, *, sharded: bool) -> Mapping[str, tuple[str, ...] | None]:
    """Return the columns of the views, by name; None where they are those of another view."""
    found: dict[str, tuple[str, ...] | None] = {}
    for target in spec.targets:
        if target.of is not None:
            continue
        shown = [*target.by, *target.visible, *target.extremes]
        shown += (name for each in spec.targets if each.of == target.table for name in each.reads)
        if target.bucket is not None:
            shown.append(target.bucket)
        found[f"{target.table}_fresh"] = tuple(column for column in shown if column != TOTAL)
        if sharded and not target.keyed:
            found[f"{target.table}_now"] = None
    return found


def row_functions(spec: RollupSpec) -> tuple[str, ...]:
    """Return the functions of a source on shards that fresh views read from."""
    found = (target for target in spec.targets if not target.keyed and target.of is None)
    return tuple(f"{target.table}_rows" for target in found)


def drop(
    spec: RollupSpec,
    *,
    keep: bool = False,
    clear: Iterable[str] = (),
    incomplete: Iterable[str] = (),
    renamed_to: str | None = None,
    moved_to: str | None = None,
) -> tuple[str, ...]:
    """Return the statements that drop the machinery, as much as there is of it.

    What is in the log is added up first. Where that fails, because something is missing or has been
    changed by hand, the tables have to be backfilled again.

    Args:
        spec: The rollups.
        keep: Whether the state stays, for rollups that are created anew in the same migration.
        clear: The tables that are emptied: their groups are to be others.
        incomplete: The tables that have to be backfilled again in any case.
        renamed_to: The name that the source has from now on, and its state with it.
        moved_to: The schema that the source is in from now on, and its state with it.
    """
    qualified = {
        name: qualify(f"{spec.source}{suffix}", spec.schema)
        for name, suffix in (("run", "_run"), ("capture", "_capture"), ("source", ""))
    }
    source, state = qualified["source"], qualify(spec.state, spec.schema)
    lock = f"pg_advisory_xact_lock{lock_key(source)}"
    capture = f"to_regprocedure({literal(qualified['capture'] + '()')})"
    log = literal(qualify(spec.log, spec.schema))
    failed = literal(
        f"The rollups of {spec.source} have to be backfilled: what has changed cannot be added up. "
    )
    incomplete = tuple(incomplete)
    some = f"WHERE s.target IN ({_listed(map(literal, incomplete))})" if incomplete else ""
    statements = [
        _PREPARE,
        # Nobody may write between the last run and the end of the triggers. First the lock that
        # runs take, or one that is under way could wait for a table that waits for it.
        do_block(
            f"source := to_regclass({literal(source)});\n"
            f"IF source IS NOT NULL THEN\n"
            f"  IF to_regprocedure({literal(qualified['run'] + '(boolean)')}) IS NOT NULL THEN\n"
            f"    PERFORM {lock};\n  END IF;\n"
            f"  EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', source);\nEND IF;\n"
            "IF NOT coalesce((SELECT count(*) = 4 FROM pg_catalog.pg_trigger AS t\n"
            f"    WHERE t.tgrelid = source AND t.tgfoid = {capture}\n"
            "      AND t.tgenabled IN ('O', 'A')), false) "
            f"OR to_regclass({log}) IS NULL THEN\n"
            "  why := 'The log or triggers of the source are missing or disabled.';\nEND IF;\n"
            # What is told the time of the last run is told of no run without changes here.
            "BEGIN\n"
            f"  {_lock_shards('source', qualify(spec.log, spec.schema))}\n"
            f"  IF EXISTS (SELECT 1 FROM {qualify(spec.log, spec.schema)} LIMIT 1) THEN\n"
            f"    PERFORM {qualified['run']}();\n  END IF;\n"
            # What waits for somebody else, is cancelled or out of reach is not for us to pass over.
            "EXCEPTION WHEN syntax_error_or_access_rule_violation OR data_exception\n"
            "  OR integrity_constraint_violation OR raise_exception OR feature_not_supported THEN\n"
            "  why := coalesce(why, SQLERRM);\nEND;\n"
            f"IF to_regclass({literal(state)}) IS NOT NULL THEN\n"
            f"  IF why IS NOT NULL THEN\n"
            f"    RAISE WARNING USING MESSAGE = {failed} || why;\n"
            f"    UPDATE {state} SET complete_since = 'infinity';\n"
            + (
                f"  ELSE\n    UPDATE {state} AS s SET complete_since = 'infinity' {some};\n"
                if incomplete
                else ""
            )
            + "  END IF;\nEND IF;",
            declare=("source regclass", "why text"),
        ),
        *(
            f"DROP VIEW IF EXISTS {qualify(view, spec.schema)}"
            for view in views(spec, sharded=True)
            if view.endswith("_fresh")
        ),
        *(
            f"DROP FUNCTION IF EXISTS {qualify(function, spec.schema)}()"
            for function in row_functions(spec)
        ),
        *(
            f"DROP VIEW IF EXISTS {qualify(view, spec.schema)}"
            for view in views(spec, sharded=True)
            if not view.endswith("_fresh")
        ),
        *(
            f"DROP TRIGGER IF EXISTS {quote(f'{spec.source}_capture_{event.lower()}')} ON {source}"
            for event in _CAPTURES
        ),
        # Where the source has been renamed, or its triggers have been.
        do_block(
            "citus := to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL;\n"
            "FOR one IN SELECT t.tgname, t.tgrelid FROM pg_catalog.pg_trigger AS t\n"
            f"    WHERE t.tgfoid = {capture} LOOP\n"
            "  IF citus THEN\n"
            "    CONTINUE WHEN pg_catalog.relation_is_a_known_shard(one.tgrelid);\n  END IF;\n"
            "  EXECUTE format('DROP TRIGGER %I ON %s', one.tgname, one.tgrelid::regclass);\n"
            "END LOOP;",
            declare=("citus boolean", "one record"),
        ),
        *(
            f"DROP TABLE IF EXISTS {qualify(name, spec.schema)}"
            for name in spec.machinery
            if not (keep and name == spec.state)
        ),
    ]
    every = functions(spec, sharded=True)
    statements += (
        f"DROP FUNCTION IF EXISTS {qualify(function.name, spec.schema)}({function.arguments})"
        for function in reversed(every)
    )
    for table in clear:
        words = (
            "rollup table %s cannot have other dimensions or buckets: rows of its source have been "
            "expired, and their aggregates would be lost. Declare another rollup beside it."
        )
        message = refusal(f"format({literal(words)}, {literal(quote(table))})")
        statements.append(
            do_block(
                f"IF to_regclass({literal(state)}) IS NOT NULL THEN\n"
                f"  IF EXISTS (SELECT FROM {state} AS s WHERE s.target = {literal(table)} "
                f"AND isfinite(s.horizon)) THEN\n{indented(message)}\n  END IF;\nEND IF;\n"
                f"IF to_regclass({literal(qualify(table, spec.schema))}) IS NOT NULL THEN\n"
                f"  DELETE FROM {qualify(table, spec.schema)};\nEND IF;"
            )
        )
    if renamed_to is not None and keep:
        name = f"{renamed_to}_rollups"
        statements.append(f"ALTER TABLE IF EXISTS {state} RENAME TO {quote(name)}")
        state = qualify(name, spec.schema)
    if moved_to is not None and keep:
        statements.append(f"ALTER TABLE IF EXISTS {state} SET SCHEMA {quote(moved_to)}")
    return tuple(statements)


def triggers(spec: RollupSpec) -> frozenset[tuple[str, str, str]]:
    """Return the table, the name and the function of each trigger."""
    captures = {
        (spec.source, f"{spec.source}_capture_{event.lower()}", f"{spec.source}_capture")
        for event in _CAPTURES
    }
    return frozenset(captures | {(spec.log, f"{spec.source}_absorb", f"{spec.source}_absorb")})


def _identify(spec: RollupSpec) -> str:
    """Return the block that lets rows be replicated which are deleted or updated.

    Citus moves a shard beside its writers by logical replication, if each of the tables on it says
    how its rows are told apart. A publication of all tables refuses to delete without it as well.
    """
    tables = [spec.log, *(target.table for target in spec.targets)]
    tables += (f"{target.table}_outbox" for target in spec.targets if not target.keyed)
    names = _listed(f"{literal(qualify(table, spec.schema))}::regclass" for table in tables)
    source = literal(qualify(spec.source, spec.schema))
    words = (
        "table %1$s has neither a primary key nor a replica identity: Citus moves its shards only "
        "while writers wait (shard_transfer_mode => 'block_writes'), or after ALTER TABLE %1$s "
        "REPLICA IDENTITY FULL, which makes the write-ahead log of updates and deletes larger."
    )
    unidentified = (
        "SELECT c.oid::regclass AS name FROM pg_catalog.pg_class AS c\n"
        "WHERE {which} AND (c.relreplident = 'n' OR c.relreplident = 'd' AND NOT EXISTS (\n"
        "  SELECT FROM pg_catalog.pg_index AS i WHERE i.indrelid = c.oid AND i.indisprimary))"
    )
    own = unidentified.format(which=f"c.oid IN ({names})")
    theirs = unidentified.format(which=f"c.oid = {source}::regclass AND sharded")
    return do_block(
        f"FOR one IN\n{indented(own)}\nLOOP\n"
        "  EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', one.name);\nEND LOOP;\n"
        "IF to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL THEN\n"
        "  sharded := EXISTS (SELECT FROM pg_catalog.pg_dist_partition\n"
        f"    WHERE logicalrelid = {source}::regclass);\nEND IF;\n"
        f"FOR one IN\n{indented(theirs)}\nLOOP\n"
        f"  RAISE WARNING USING MESSAGE = format({literal(words)}, one.name);\nEND LOOP;",
        declare=("one record", "sharded boolean := false"),
    )


def _distribute_beside(spec: RollupSpec) -> str:
    source = literal(qualify(spec.source, spec.schema))
    tables = {spec.log: "key"}
    tables |= {f"{t.table}_outbox": "_key" for t in spec.targets if not t.keyed}
    calls = "".join(
        f"  PERFORM create_distributed_table({literal(qualify(table, spec.schema))}, "
        f"{literal(column) if spec.key is not None else 'NULL'}, colocate_with => {source});\n"
        for table, column in tables.items()
    )
    if spec.late == "refuse":
        horizon = literal(qualify(spec.horizon, spec.schema))
        calls += f"  PERFORM create_reference_table({horizon});\n"
    return on_citus(
        "IF EXISTS (SELECT FROM pg_catalog.pg_dist_partition\n"
        f"           WHERE logicalrelid = {source}::regclass) THEN\n{calls}END IF;"
    )


def _search_path(spec: RollupSpec) -> str:
    """Return the schemas in which functions look names up behind pg_catalog, as an expression.

    A function that runs with its owner's rights must not look names up where others can put
    theirs. Without a schema of our own, the one that the tables were created in is known only to
    the server; types and operators of extensions may be in any other of the search path.
    """
    schema = "current_schema()" if spec.schema is None else literal(spec.schema)
    return (
        "(SELECT string_agg(quote_ident(s), ', ' ORDER BY o) FROM (\n"
        f"    SELECT {schema} AS s, 0 AS o UNION ALL\n"
        "    SELECT * FROM unnest(current_schemas(false)) WITH ORDINALITY AS p (s, o)\n"
        f"    WHERE s <> {schema}) AS paths)"
    )


def _create_functions(spec: RollupSpec) -> str:
    """Return the block that creates the functions that suit the source, with a search path."""
    branches = []
    for sharded in (True, False):
        body = ""
        for function in functions(spec, sharded=sharded):
            body += f"EXECUTE {dollar_quote(function.create(spec.schema), 'create')};\n"
            signature = f"{qualify(function.name, spec.schema)}({function.arguments})"
            if not function.own_path:
                continue
            body += (
                f"EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, %s, pg_temp', "
                f"{literal(signature)}, path);\n"
            )
        # Not indented: a function is compared with what it was created from.
        branches.append(body)
    source = literal(qualify(spec.source, spec.schema))
    block = (
        f"\nDECLARE\n  path text := {_search_path(spec)};\n  sharded boolean := false;\nBEGIN\n"
        "  IF to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL THEN\n"
        "    sharded := EXISTS (SELECT FROM pg_catalog.pg_dist_partition\n"
        f"      WHERE logicalrelid = {source}::regclass);\n  END IF;\n"
        f"  IF sharded THEN\n{branches[0]}\n  ELSE\n{branches[1]}\n  END IF;\nEND\n"
    )
    return f"DO {dollar_quote(block, 'functions')}"


def _refuse_new_measures(state: str, rows: str) -> str:
    """Return the statements that refuse what cannot be known of rows that have been expired."""
    message = refusal(
        "format('rollup %s cannot have another measure: rows of its source have been expired, and "
        "it would be wrong for their groups. Declare another rollup beside it', changed)"
    )
    # Its hidden columns, and the tables of what does not add up.
    return f"""\
SELECT s.target INTO changed
FROM (VALUES
    {rows}) AS v (target, shape)
JOIN {state} AS s ON s.target = coalesce(v.shape::jsonb ->> 'of', v.target)
WHERE isfinite(s.horizon) AND CASE
  WHEN v.shape::jsonb ->> 'of' IS NOT NULL
    THEN NOT EXISTS (SELECT FROM {state} AS m WHERE m.target = v.target)
  ELSE EXISTS (
    SELECT jsonb_object_keys((v.shape::jsonb -> 'sums') || (v.shape::jsonb -> 'extremes'))
    EXCEPT
    SELECT jsonb_object_keys((s.shape::jsonb -> 'sums') || (s.shape::jsonb -> 'extremes')))
END LIMIT 1;
IF changed IS NOT NULL THEN
  {message}
END IF;"""


def _register(spec: RollupSpec) -> str:
    """Return the block that notes the tables of the rollups, and whether each is complete."""
    state, source = qualify(spec.state, spec.schema), qualify(spec.source, spec.schema)
    shapes = {}
    for target in spec.targets:
        # What the measures of other rollups need of the log changes nothing.
        used = {*target.by.values(), target.where, *(c for _, c in target.extremes.values())}
        sums = " ".join(target.sums.values())
        columns = {
            name: sql
            for name, sql in spec.columns.items()
            if name in used or f"l.{quote(name)}" in sums
        }
        shape = asdict(target) | {"columns": columns}
        # Nor does how it is read.
        del shape["visible"], shape["reads"]
        shapes[target.table] = json.dumps(shape, sort_keys=True, ensure_ascii=False)
    rows = ",\n    ".join(f"({literal(t)}, {literal(shape)})" for t, shape in shapes.items())
    filled = "".join(
        f"IF EXISTS (SELECT 1 FROM {qualify(table, spec.schema)} LIMIT 1) THEN\n"
        f"  filled := filled || {literal(table)}::text;\nEND IF;\n"
        for table in shapes
    )
    return do_block(
        f"empty := NOT EXISTS (SELECT 1 FROM {source} LIMIT 1);\n{filled}"
        f"known := (SELECT max(s.horizon) FROM {state} AS s);\n"
        f"IF isfinite(known) THEN\n{indented(_refuse_new_measures(state, rows))}\nEND IF;\n"
        # Where a table comes back, nothing of what was known of it is true.
        f"DELETE FROM {state} WHERE target NOT IN ({_listed(map(literal, shapes))});\n"
        f"INSERT INTO {state} AS s (target, shape, complete_since, horizon)\n"
        "SELECT v.target, v.shape,\n"
        "       CASE WHEN empty AND v.target <> ALL (filled) THEN timestamptz '-infinity'\n"
        "            ELSE 'infinity' END,\n"
        # A table that has been renamed keeps its aggregates of rows that have been expired.
        "       CASE WHEN v.target = ANY (filled) THEN known END\n"
        f"FROM (VALUES\n    {rows}) AS v (target, shape)\n"
        "ON CONFLICT (target) DO UPDATE SET shape = excluded.shape, complete_since = CASE\n"
        "  WHEN s.shape = excluded.shape THEN coalesce(s.complete_since, excluded.complete_since)\n"
        "  ELSE excluded.complete_since END;",
        declare=(
            *("empty boolean", "filled text[] := '{}'", "known timestamptz"),
            "changed text",
        ),
    )


# A column of `r`, or what a column's name may stand in.
_COLUMN: Final = re.compile(
    r"""(?<![\w"])r\.("(?:[^"]|"")+"|[a-z_][a-z0-9_]*)|'(?:[^']|'')*'|"(?:[^"]|"")+\""""
)


def _plain(sql: str) -> str | None:
    """Return the column of the source that an expression is, None for any other expression."""
    column = _COLUMN.fullmatch(sql)
    return None if column is None or column[1] is None else _unquoted(column[1])


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def used_columns(spec: RollupSpec) -> tuple[str, ...]:
    """Return the columns of the source that its rollups use, in order."""
    found = (name for _, sql in projection(spec) for name in _COLUMN.findall(sql))
    return tuple(dict.fromkeys(_unquoted(name) for name in found if name))


def _array(names: Iterable[str | None]) -> str:
    values = _listed("NULL" if name is None else literal(name) for name in names)
    return f"ARRAY[{values}]::text[]"


def _subjects(spec: RollupSpec) -> str:
    """Return the WITH clause that names the source and the targets of a spec to `demands`.

    `own` are the columns that runs write to; `groups` those of the key. `logged` has, for each of
    `stored`, the column of the source whose value it gets, NULL where the value is computed or not
    all rows count.
    """
    rows = []
    for target in spec.targets:
        bucket = [] if target.bucket is None else [target.bucket]
        sources = {name: _plain(sql) for name, sql in spec.columns.items()}
        sources |= {"key": spec.key, "true": None}
        values = dict(target.by) | {c: logged for c, (_, logged) in target.extremes.items()}
        stored = {
            c: None if target.where or c == VALUE else sources.get(each)
            for c, each in values.items()
        }
        if target.undated and target.bucket is not None:
            stored[target.bucket] = spec.time
        groups = [*target.by, *bucket]
        own = [*groups, target.rows, *target.sums, *target.extremes]
        keyed = next((c for c, each in target.by.items() if each == "key"), None)
        name = qualify(target.table, spec.schema)
        rows.append(
            f"({literal(quote(target.table))}, to_regclass({literal(name)}), "
            f"{str(target.keyed).lower()}, {'NULL' if keyed is None else literal(keyed)}, "
            f"{'NULL' if target.bucket is None else literal(target.bucket)}, "
            f"{_array(groups)}, {_array(own)}, {_array(stored)}, {_array(stored.values())})"
        )
    time = "NULL" if spec.time is None else literal(spec.time)
    key = "NULL" if spec.key is None else literal(spec.key)
    return (
        f"WITH source AS (\n  SELECT {literal(quote(spec.source))} AS name, "
        f"to_regclass({literal(qualify(spec.source, spec.schema))}) AS oid, {time}::text AS time,\n"
        f"    {key}::text AS key, {_array(used_columns(spec))} AS used\n), target AS (\n"
        "  SELECT * FROM (VALUES\n    " + ",\n    ".join(rows) + ")\n"
        "  AS v (name, oid, keyed, key, bucket, groups, own, stored, logged)\n)"
    )


# What keeps rollups from adding up, as queries for messages over `_subjects`.

_DEMANDS: Final = """
SELECT format('there is no table %s', t.name)
FROM (SELECT name, oid FROM source UNION ALL SELECT name, oid FROM target) AS t WHERE t.oid IS NULL
UNION ALL
SELECT format('%s is a %s, and rollups need a table: only its triggers see every change', s.name,
  CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
                 WHEN 'f' THEN 'foreign table' ELSE 'relation of another kind' END)
FROM source AS s JOIN pg_catalog.pg_class AS c ON c.oid = s.oid WHERE c.relkind NOT IN ('r', 'p')
UNION ALL
SELECT format('%s is %s: after a crash it would be empty, and what its rollups have pending would '
  'not be. Rollups need a logged table', p.relid::regclass,
  CASE c.relpersistence WHEN 'u' THEN 'unlogged' ELSE 'temporary' END)
FROM source AS s CROSS JOIN LATERAL (
  SELECT s.oid AS relid UNION SELECT relid FROM pg_catalog.pg_partition_tree(s.oid)) AS p
JOIN pg_catalog.pg_class AS c ON c.oid = p.relid WHERE c.relpersistence <> 'p'
UNION ALL
SELECT format('partition %s of %s is a foreign table: rollups need triggers that see its rows',
  p.relid::regclass, s.name)
FROM source AS s CROSS JOIN LATERAL pg_catalog.pg_partition_tree(s.oid) AS p
JOIN pg_catalog.pg_class AS c ON c.oid = p.relid WHERE c.relkind = 'f' AND p.relid <> s.oid
UNION ALL
SELECT format('%s is a partition of %s, through which rows come and go without its triggers: '
  'declare the rollup on that one', s.name, i.inhparent::regclass)
FROM source AS s JOIN pg_catalog.pg_class AS c ON c.oid = s.oid AND c.relispartition
JOIN pg_catalog.pg_inherits AS i ON i.inhrelid = c.oid
UNION ALL
SELECT format('%s inherits from %s: rows of one are written through the other, without its '
  'triggers. Use declarative partitioning', i.inhrelid::regclass, i.inhparent::regclass)
FROM source AS s JOIN pg_catalog.pg_inherits AS i ON s.oid IN (i.inhparent, i.inhrelid)
JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid AND NOT c.relispartition
UNION ALL
SELECT format('table %s has no column %I, which its rollups need: if it has been renamed, create '
  'them anew with its new name', s.name, u.name)
FROM source AS s CROSS JOIN unnest(s.used) AS u (name)
WHERE s.oid IS NOT NULL AND NOT EXISTS (
  SELECT FROM pg_catalog.pg_attribute AS a
  WHERE a.attrelid = s.oid AND a.attname = u.name AND NOT a.attisdropped)
UNION ALL
SELECT format('column %I of %s is a virtual generated column, which triggers do not see: make it '
  'STORED, or use its expression', a.attname, s.name)
FROM source AS s JOIN pg_catalog.pg_attribute AS a
  ON a.attrelid = s.oid AND a.attname = ANY (s.used) AND a.attgenerated = 'v'
UNION ALL
SELECT format('column %I of %s must be a timestamp with time zone: without a zone a bucket would '
  'depend on the session', a.attname, t.name)
FROM (SELECT name, oid, time AS "column" FROM source UNION ALL SELECT name, oid, bucket FROM target)
  AS t
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.oid AND a.attname = t."column"
WHERE a.atttypid <> 'pg_catalog.timestamptz'::regtype
UNION ALL
SELECT format('rollup table %s has no column %I', t.name, o.name)
FROM target AS t CROSS JOIN unnest(t.own) AS o (name)
WHERE t.oid IS NOT NULL AND NOT EXISTS (
  SELECT FROM pg_catalog.pg_attribute AS a
  WHERE a.attrelid = t.oid AND a.attname = o.name AND NOT a.attisdropped)
UNION ALL
SELECT format('rollup table %s must be an ordinary, logged table of row storage, not %s', t.name,
  CASE WHEN c.relkind = 'p' THEN 'a partitioned one' WHEN c.relkind <> 'r' THEN 'another relation'
       WHEN c.relpersistence = 'u' THEN 'an unlogged one'
       WHEN c.relpersistence = 't' THEN 'a temporary one'
       ELSE format('a %s one', m.amname) END)
FROM target AS t JOIN pg_catalog.pg_class AS c ON c.oid = t.oid
LEFT JOIN pg_catalog.pg_am AS m ON m.oid = c.relam
WHERE c.relkind <> 'r' OR c.relpersistence <> 'p' OR m.amname = 'columnar'
UNION ALL
SELECT format('rollup table %s needs a unique index on %s alone, with NULLS NOT DISTINCT if one of '
  'them may be NULL: it keeps one row a group', t.name,
  (SELECT string_agg('"' || replace(g.name, '"', '""') || '"', ', ' ORDER BY g.place)
   FROM unnest(t.groups) WITH ORDINALITY AS g (name, place)))
FROM target AS t WHERE t.oid IS NOT NULL AND NOT EXISTS (
  SELECT FROM pg_catalog.pg_index AS i CROSS JOIN LATERAL (
    SELECT array_agg(a.attname::text) AS columns, bool_and(a.attnotnull) AS filled
    FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number
    WHERE k.place <= i.indnkeyatts) AS keys
  WHERE i.indrelid = t.oid AND i.indisunique AND i.indimmediate AND i.indisvalid
    AND i.indpred IS NULL AND i.indexprs IS NULL
    AND keys.columns @> t.groups AND keys.columns <@ t.groups
    AND (i.indnullsnotdistinct OR keys.filled))
UNION ALL
SELECT format('rollup table %s must not have the index %s, which allows fewer rows than there are '
  'groups', t.name, i.indexrelid::regclass)
FROM target AS t JOIN pg_catalog.pg_index AS i ON i.indrelid = t.oid
WHERE (i.indisunique OR i.indisexclusion) AND NOT coalesce((
  SELECT i.indisunique AND (array_agg(a.attname::text) @> t.groups
                            OR NOT array_agg(a.attname::text) && t.own)
  FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.number
  WHERE k.place <= i.indnkeyatts), false)
UNION ALL
SELECT format('column %I of rollup table %s is generated, and a run could not write to it',
  a.attname, t.name)
FROM target AS t JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.oid AND a.attname = ANY (t.own)
WHERE a.attgenerated <> '' OR a.attidentity = 'a'
UNION ALL
SELECT format('column %I of rollup table %s is NOT NULL and has no default, so a run could not '
  'insert a group', a.attname, t.name)
FROM target AS t JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.oid AND a.attnum > 0
WHERE a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND NOT a.attisdropped
  AND a.attname <> ALL (t.own)
UNION ALL
SELECT format('column %I of rollup table %s is NOT NULL, and column %I of its source may be NULL',
  a.attname, t.name, v.logged)
FROM target AS t CROSS JOIN source AS s CROSS JOIN unnest(t.stored, t.logged) AS v (stored, logged)
JOIN pg_catalog.pg_attribute AS a
  ON a.attrelid = t.oid AND a.attname = v.stored AND a.attnotnull
JOIN pg_catalog.pg_attribute AS b
  ON b.attrelid = s.oid AND b.attname = v.logged AND NOT b.attnotnull
UNION ALL
SELECT format('constraint %I of %s could refuse a group of rollup table %s: drop it', k.conname,
  k.conrelid::regclass, t.name)
FROM target AS t CROSS JOIN source AS s
JOIN pg_catalog.pg_constraint AS k
  ON k.contype IN ('c', 'f') AND t.oid IN (k.conrelid, k.confrelid)
-- What holds for every row of the source holds for every group.
WHERE NOT (k.contype = 'c' AND k.conrelid = t.oid AND EXISTS (
  SELECT FROM pg_catalog.pg_constraint AS o
  WHERE o.conrelid = s.oid AND o.contype = 'c' AND o.convalidated
    AND pg_catalog.pg_get_constraintdef(o.oid) = pg_catalog.pg_get_constraintdef(k.oid)))
UNION ALL
SELECT format('trigger %I of rollup table %s could refuse or change a group: drop it', g.tgname,
  t.name)
FROM target AS t JOIN pg_catalog.pg_trigger AS g
  -- Before each row.
  ON g.tgrelid = t.oid AND NOT g.tgisinternal AND g.tgtype::integer & 3 = 3
UNION ALL
SELECT format('rule %I of rollup table %s could change a group: drop it', w.rulename, t.name)
FROM target AS t JOIN pg_catalog.pg_rewrite AS w ON w.ev_class = t.oid
JOIN pg_catalog.pg_class AS c ON c.oid = t.oid AND c.relkind = 'r'"""

# Those of a server with Citus. `k` is how a table is spread: L local, S on shards, R on every node,
# C on the coordinator, but in Citus's metadata.
_CITUS_DEMANDS: Final = """,
spread AS (
  SELECT p.logicalrelid AS oid, p.colocationid AS colocation,
         pg_catalog.column_to_column_name(p.logicalrelid, p.partkey) AS column,
         CASE WHEN p.partmethod <> 'n' THEN 'S' WHEN p.repmodel = 't' THEN 'R'
              WHEN p.colocationid = 0 THEN 'C' ELSE 'S' END AS k
  FROM pg_catalog.pg_dist_partition AS p
), place AS (
  SELECT s.*, coalesce(d.k, 'L') AS k, d.colocation, d.column
  FROM source AS s LEFT JOIN spread AS d ON d.oid = s.oid
)
SELECT format('%s is a %s: rollups need a source that is local or on shards', s.name,
  CASE s.k WHEN 'R' THEN 'reference table' ELSE 'local table in the metadata of Citus' END)
FROM place AS s WHERE s.k IN ('R', 'C')
UNION ALL
SELECT format('table %s is distributed by %s, and its rollups were declared for %s', s.name,
  coalesce(quote_ident(s.column), 'nothing'), coalesce(quote_ident(s.key), 'a table that is not'))
FROM place AS s WHERE s.k = 'S' AND s.column IS DISTINCT FROM s.key
UNION ALL
SELECT format('rollup table %s must be distributed by %I and colocated with its source %s', t.name,
  t.key, s.name)
FROM place AS s CROSS JOIN target AS t LEFT JOIN spread AS d ON d.oid = t.oid
WHERE s.k = 'S' AND t.keyed AND s.key IS NOT NULL AND t.oid IS NOT NULL
  AND (d.k, d.colocation, d.column) IS DISTINCT FROM ('S', s.colocation, t.key)
UNION ALL
SELECT format('rollup table %s must be colocated with its source %s, on its only shard', t.name,
  s.name)
FROM place AS s CROSS JOIN target AS t LEFT JOIN spread AS d ON d.oid = t.oid
WHERE s.k = 'S' AND t.keyed AND s.key IS NULL AND t.oid IS NOT NULL
  AND (d.k, d.colocation) IS DISTINCT FROM ('S', s.colocation)
UNION ALL
SELECT format('rollup table %s does not have the distribution column of its source %s among its '
  'dimensions, and so must be a reference table', t.name, s.name)
FROM place AS s CROSS JOIN target AS t LEFT JOIN spread AS d ON d.oid = t.oid
WHERE s.k = 'S' AND NOT t.keyed AND t.oid IS NOT NULL AND d.k IS DISTINCT FROM 'R'
UNION ALL
SELECT format('rollup table %s must be local like its source %s', t.name, s.name)
FROM place AS s CROSS JOIN target AS t JOIN spread AS d ON d.oid = t.oid
WHERE s.k = 'L' AND d.k <> 'C'"""


def demands(spec: RollupSpec) -> tuple[str, str]:
    """Return the queries for what keeps the rollups from adding up, in words.

    The second is for a server with Citus. They fail on nothing, whatever is missing.
    """
    subjects = _subjects(spec)
    return f"{subjects}{_DEMANDS}", f"{subjects}{_CITUS_DEMANDS}"


def _check(spec: RollupSpec) -> str:
    """Return the block that refuses what would not add up, before anything is created."""
    message = (
        "rollups of %s have to be created under READ COMMITTED: under another isolation level "
        "rows that others have just committed would be missed."
    )
    old = refusal(f"format({literal(message)}, {literal(quote(spec.source))})")
    plain, citus = demands(spec)
    relations = spec.derived_relations.keys() - {spec.state}
    routines = spec.derived_functions.keys() | set(spec.functions)
    schema = "current_schema()" if spec.schema is None else literal(spec.schema)
    taken = (
        "format('there is a %s %s already: the rollups of %s need its name', one.kind, one.name, "
        f"{literal(quote(spec.source))})"
    )
    body = f"""
DECLARE
  wrong text;
  one record;
BEGIN
  -- A snapshot from before the triggers hides rows that no trigger has seen.
  IF current_setting('transaction_isolation') <> 'read committed' THEN
{indented(old)}
  END IF;
  wrong := (SELECT m.m FROM (
{plain}) AS m (m) LIMIT 1);
  IF wrong IS NULL AND {HAS_CITUS} THEN
    wrong := (SELECT m.m FROM (
{citus}) AS m (m) LIMIT 1);
  END IF;
  IF wrong IS NOT NULL THEN
    {refusal("wrong || '.'")}
  END IF;
  FOR one IN
    SELECT 'relation' AS kind, quote_ident(c.relname) AS name
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = {schema} AND (c.relname = ANY ({_array(sorted(relations))})
      OR c.relname = {literal(spec.state)} AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = c.oid AND a.attname IN ('shape', 'horizon')))
    UNION ALL
    SELECT 'function', quote_ident(p.proname)
    FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
    WHERE n.nspname = {schema} AND p.proname = ANY ({_array(sorted(routines))})
  LOOP
    {refusal(taken)}
  END LOOP;
END
"""
    return f"DO {dollar_quote(body, 'check')}"


# A value that is counted approximately: its hash is in the log.
_HASHED: Final = re.compile(r"CASE WHEN (.*?) IS NOT NULL THEN \(\(hash_record_extended", re.DOTALL)


def _check_immutable(spec: RollupSpec) -> tuple[str, ...]:
    """Return the block that refuses expressions whose value is not of their row alone.

    A row has to leave with the value that it came with. The server says what it is: an index of an
    empty copy of the source may only have immutable expressions. Stable is `date_trunc` in a time
    zone, because its rules may change; so are the buckets of a calendar.
    """
    message = (
        "format('rollups of %s use %s, whose value depends on more than the row (%s): use an "
        "immutable expression', {source}, one.sql, SQLERRM)"
    ).replace("{source}", literal(quote(spec.source)))
    computed = [sql for sql in spec.columns.values() if _plain(sql) is None]
    if not computed:
        return ()
    values = _listed(f"({literal(sql)})" for sql in computed)
    counted = (_HASHED.match(sql) for sql in computed)
    hashed = _array(found[1] for found in counted if found)
    written = (
        f"format('rollups of %s use %s, a text of a float or of bytes, which depends on the "
        f"session: use an immutable expression, such as a text of a numeric, or encode()', "
        f"{literal(quote(spec.source))}, one.sql)"
    )
    unhashed = (
        f"format('rollups of %s count values of %s approximately, whose type has no hash (%s)', "
        f"{literal(quote(spec.source))}, one.sql, SQLERRM)"
    )
    block = do_block(
        f"CREATE TEMPORARY TABLE r (LIKE {qualify(spec.source, spec.schema)});\n"
        f"FOR one IN SELECT * FROM (VALUES {values}) AS v (sql) LOOP\n"
        "  BEGIN\n"
        "    EXECUTE format('CREATE INDEX ON pg_temp.r ((1)) WHERE (%s) IS NULL', one.sql);\n"
        "    tree := (SELECT string_agg(i.indpred::text, '') FROM pg_catalog.pg_index AS i\n"
        "             WHERE i.indrelid = 'pg_temp.r'::regclass);\n"
        "  EXCEPTION WHEN invalid_object_definition THEN\n"
        "    EXECUTE format('CREATE OR REPLACE TEMPORARY VIEW r_view AS SELECT (%s) IS NULL AS v "
        "FROM pg_temp.r', one.sql);\n"
        "    tree := (SELECT w.ev_action::text FROM pg_catalog.pg_rewrite AS w\n"
        "             WHERE w.ev_class = 'pg_temp.r_view'::regclass);\n"
        "    IF tree ~ '\\{(SQLVALUEFUNCTION|COERCEVIAIO|ARRAYCOERCEEXPR|NEXTVALUEEXPR|XMLEXPR)'\n"
        "      OR EXISTS (\n"
        "        SELECT FROM regexp_matches(tree, ':(?:funcid|opfuncid) (\\d+)', 'g') AS f\n"
        "        JOIN pg_catalog.pg_proc AS p ON p.oid = f.f[1]::oid\n"
        "        WHERE p.provolatile <> 'i' AND p.oid <> "
        "'pg_catalog.date_trunc(text, timestamptz, text)'::regprocedure)\n"
        f"    THEN\n      {refusal(message)}\n    END IF;\n"
        "  END;\n"
        # To the server these are immutable: bytea, real and double precision.
        "  IF tree ~ 'COERCEVIAIO :arg [{][A-Z]+ [^{}]*:[a-z]+type (17|700|701) ' THEN\n"
        f"{indented(refusal(written))}\n  END IF;\n"
        "END LOOP;\n"
        f"FOR one IN SELECT * FROM unnest({hashed}) AS v (sql) LOOP\n"
        "  BEGIN\n"
        "    EXECUTE format('SELECT hash_record_extended(ROW(%s), 0) FROM (VALUES (1)) AS one "
        "LEFT JOIN pg_temp.r ON true', one.sql);\n"
        f"  EXCEPTION WHEN undefined_function THEN\n    {refusal(unhashed)}\n"
        "  END;\nEND LOOP;\nDROP TABLE pg_temp.r CASCADE;",
        declare=("one record", "tree text"),
    )
    return (block,)


def mistyped(spec: RollupSpec) -> str:
    """Return the query for columns that do not have the types of the log, and what they are for.

    Its columns are `relation`, `name`, `found` and `wanted`. Fails if a table is missing.
    """
    pairs: list[str] = []
    for target in spec.targets:
        logged = [(c, name) for c, name in target.by.items() if name != "true"]
        logged += ((c, name) for c, (_, name) in target.extremes.items())
        table = literal(qualify(target.table, spec.schema))
        pairs += (f"({table}, {literal(column)}, {literal(name)})" for column, name in logged)
        pairs.append(f"({table}, {literal(target.rows)}, NULL)")
    log, source = (literal(qualify(name, spec.schema)) for name in (spec.log, spec.source))
    plain = {name: _plain(sql) for name, sql in spec.columns.items()} | {"key": spec.key}
    pairs += (
        f"({source}, {literal(column)}, {literal(name)})"
        for name, column in plain.items()
        if column is not None
    )
    return (
        "SELECT v.relation, v.name, format_type(t.atttypid, t.atttypmod) AS found,\n"
        "       coalesce(format_type(l.atttypid, l.atttypmod), 'bigint') AS wanted\n"
        f"FROM (VALUES {_listed(pairs)}) AS v (relation, name, logged)\n"
        "JOIN pg_catalog.pg_attribute AS t\n"
        "  ON t.attrelid = v.relation::regclass AND t.attname = v.name\n"
        "LEFT JOIN pg_catalog.pg_attribute AS l\n"
        f"  ON l.attrelid = {log}::regclass AND l.attname = v.logged\n"
        "WHERE v.logged IS NOT NULL AND l.attname IS NULL OR (t.atttypid, t.atttypmod)\n"
        "  IS DISTINCT FROM (coalesce(l.atttypid, 'bigint'::regtype), coalesce(l.atttypmod, -1))\n"
        # What SQLAlchemy knows as a string, of an expression, may be either to the server.
        f"  AND (v.relation <> {source} AND t.atttypmod = -1 AND l.atttypmod = -1\n"
        "    AND t.atttypid IN ('text'::regtype, 'varchar'::regtype)\n"
        "    AND l.atttypid IN ('text'::regtype, 'varchar'::regtype)) IS NOT TRUE"
    )


def _check_types(spec: RollupSpec) -> str:
    """Return the block that refuses tables whose columns could not hold what the log has."""
    message = (
        "format('column %I of %s is a %s, and has to be a %s: it would lose what the rollup holds',"
        " one.name, one.relation, one.found, one.wanted)"
    )
    return do_block(
        f"FOR one IN\n{indented(mistyped(spec))}\nLOOP\n  {refusal(message)}\nEND LOOP;",
        declare=("one record",),
    )


# Reading.

# HyperLogLog: each distinct value is in one of the registers, with a rank; a `_value` is the
# register times 64, and the rank. Flajolet et al., "HyperLogLog: the analysis of a near-optimal
# cardinality estimation algorithm", 2007; the standard error is 1.04 / sqrt(2048), 2.3 %.
REGISTERS: Final = 2048

# DDSketch: the bin of a value is the logarithm of its size, rounded up, to a base so close to 1
# that the middle of a bin is within 1 % of everything in it. Bins of positive values are shifted,
# those of negative values are their negatives, so that bins are ordered like values. Masson, Rim
# and Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees",
# 2019.
BASE: Final = 1.01 / 0.99
SHIFT: Final = 50_000
INFINITE: Final = 100_000


def read(
    spec: RollupSpec,
    target: TargetSpec,
    *,
    by: Collection[str] | None = None,
    width: str | None = None,
    measures: Collection[str] | None = None,
    fresh: bool = True,
    window: bool = False,
) -> str:
    """Return the query for the groups of a rollup.

    Args:
        spec: The rollups of the source.
        target: The table.
        by: The dimensions to group by; all of them by default.
        width: The width of the buckets, a multiple of the table's own, which is the default; empty
            for none.
        measures: The measures; all of them by default.
        fresh: Whether to add what is in the log.
        window: Whether to look at the buckets from `:since` to `:until` alone, parameters that are
            marked by a zero character.
    """
    part = Target(spec, target)
    dimensions = [column for column in target.by if column != TOTAL]
    dimensions = [column for column in dimensions if by is None or column in by]
    wanted = [*target.visible, *target.extremes]
    values = [each for each in spec.targets if each.of == target.table]
    wanted += (measure for each in values for measure in each.reads)
    wanted = [measure for measure in wanted if measures is None or measure in measures]
    values = [each for each in values if not set(each.reads).isdisjoint(wanted)]
    extremes = {c: k for c, (k, _) in target.extremes.items() if c in wanted}
    bucket = None if width == "" else target.bucket
    groups = [quote(column) for column in (*([bucket] if bucket else []), *dimensions)]

    # The rows to be grouped: of the target first, so that its columns give the types.
    legs: list[str] = []

    def add(number: int, each: TargetSpec, table: str, alias: str) -> None:
        of = Target(spec, each)
        places = [f"t.{column}" for column in of.group] if alias == "t" else of.groups
        found = dict(zip(of.group, places, strict=True))
        conditions = [] if alias == "t" else [of.counts]
        if target.bucket is not None:
            time = found[quote(target.bucket)] if alias == "t" else "l.at"
            if width:
                found[quote(target.bucket)] = bucket_of(width, time)
            if window:
                conditions.append(
                    f"{time} >= CAST(:since\0 AS timestamptz) "
                    f"AND {time} < CAST(:until\0 AS timestamptz)"
                )
        listed = [f"{found[column]} AS {column}" for column in groups]
        # Citus adds up beside the shards where the distribution column is among the columns.
        key = next(iter(part.by), "") if spec.key is not None and target.keyed else ""
        if key and quote(key) not in groups:
            listed.append(f"{found[quote(key)]} AS _key")
        if values:
            listed.append(f"{number} AS _part")
            listed += (
                f"{found[quote(VALUE)] if n == number else f'NULL::{other.value}'} AS _v{n}"
                for n, other in enumerate(values, start=1)
            )
            listed.append(f"{'0' if number == 0 else of.weight(alias)} AS _n")
        if number == 0:
            added = [f"t.{column}" for column in of.additive] if alias == "t" else of.weights
            listed += (f"{sql} AS {c}" for sql, c in zip(added, of.additive, strict=True))
            listed += (f"t.{quote(column)}" for column in extremes)
        else:
            listed += (f"0 AS {column}" for column in part.additive)
            listed += (f"NULL AS {quote(column)}" for column in extremes)
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        legs.append(f"SELECT {_listed(listed)} FROM {table} AS {alias}{where}")

    log = qualify(spec.log, spec.schema)
    settled = bool(extremes) and fresh
    for number, each in enumerate([target, *values]):
        table = qualify(each.table, spec.schema)
        if number == 0 and settled:
            add(number, each, f"(\n{settled_rows(spec, part)})", "t")
            continue
        add(number, each, table, "t")
        if fresh:
            add(number, each, log, "l")
    rows = "\n    UNION ALL ".join(legs)

    return added_up(
        rows,
        groups=groups,
        additive=part.additive,
        extremes=extremes,
        count=quote(target.rows),
        values=[each.reads for each in values],
        shown=target.visible,
        wanted=wanted,
        # What is asked for all rows has an answer even if there are none, as in SQL.
        empty=not groups and by is not None,
    )


def added_up(
    rows: str,
    *,
    groups: Sequence[str],
    additive: Iterable[str],
    extremes: Mapping[str, str],
    count: str,
    values: Sequence[Mapping[str, str]],
    shown: Mapping[str, str],
    wanted: Collection[str],
    empty: bool,
) -> str:
    """Return the query that adds up rows of tables of rollups, of the log, and of the source.

    Args:
        rows: The rows: the groups, the additive columns, the extremes, and, where there are values,
            `_part` (0, or the number of the values), `_v1` and so on, and `_n`.
        groups: The columns to group by, quoted.
        additive: The columns that are added up, quoted.
        extremes: `min` or `max` by column.
        count: The column that counts the rows of a group, quoted.
        values: What each of the values is read as, by measure; see `TargetSpec.reads`.
        shown: The measures that are expressions over the additive columns.
        wanted: The measures, in order.
        empty: Whether there is a row of the answer where there are no rows.
    """
    summed = list(additive)

    def grouped(alias: str, *more: str) -> str:
        names = [f"{alias}.{column}" for column in (*groups, *more)]
        return f" GROUP BY {_listed(names)}" if names else ""

    def sums(alias: str) -> list[str]:
        return [
            *(f"{alias}.{column}" for column in groups),
            # Without groups there is one, even if there are no rows.
            *(f"coalesce(sum({alias}.{column}), 0) AS {column}" for column in summed),
            *(f"{kind}({alias}.{quote(c)}) AS {quote(c)}" for c, kind in extremes.items()),
        ]

    having = "" if empty else f" HAVING sum(u.{count}) > 0"
    if not values:
        inner = f"SELECT {_listed(sums('u'))}\n  FROM ({rows}) AS u{grouped('u')}{having}"
    else:
        parts = [f"_v{number}" for number, _ in enumerate(values, start=1)]
        counted = [*sums("s"), "s._part", *(f"s.{name}" for name in parts), "sum(s._n) AS _n"]
        partition = _listed([*(f"v.{column}" for column in groups), "v._part"])
        marks, found, read_as = _values_read(values, wanted, partition)
        shown = {**shown, **read_as}
        each_value = grouped("s", "_part", *parts)
        inner = (
            f"SELECT {_listed([*sums('u'), *found])} FROM (\n"
            f"  SELECT {_listed(['v.*', *marks])} FROM (\n"
            f"    SELECT {_listed(counted)}\n    FROM ({rows}) AS s{each_value}\n"
            f"  ) AS v WHERE v._part = 0 OR v._n > 0\n) AS u{grouped('u')}{having}"
        )
    listed = [f"fresh.{column}" for column in groups]
    listed += (f"{shown.get(name, f'fresh.{quote(name)}')} AS {quote(name)}" for name in wanted)
    return f"SELECT {_listed(listed)} FROM (\n{inner}\n) AS fresh"


def _values_read(
    values: Iterable[Mapping[str, str]], wanted: Collection[str], partition: str
) -> tuple[list[str], list[str], dict[str, str]]:
    """Return how measures are read from the counts of their values.

    These are expressions over each value and its neighbours, over all values of a group, and over
    the group.
    """
    marks: dict[str, None] = {}
    found: list[str] = []
    shown: dict[str, str] = {}
    for number, reads in enumerate(values, start=1):
        value, mine = f"_v{number}", f"u._part = {number}"
        for place, (measure, what) in enumerate(reads.items(), start=1):
            name = f"_m{number}_{place}"
            if measure not in wanted:
                continue
            if what == "distinct":
                found.append(f"count(*) FILTER (WHERE {mine}) AS {name}")
                shown[measure] = f"fresh.{name}"
            elif what == "approximate":
                # The highest rank of each register.
                register = f"PARTITION BY {partition}, v.{value} / 64"
                marks[f"v.{value} = max(v.{value}) OVER ({register}) AS _top{number}"] = None
                used = f"FILTER (WHERE {mine} AND u._top{number})"
                found.append(f"count(*) {used} AS {name}")
                # Not `<name>_sum`, which may be a hidden column.
                ranks = f"_ranks{number}_{place}"
                power = f"sum(power(2::numeric, -(u.{value} % 64))) {used}"
                found.append(f"coalesce({power}, 0) AS {ranks}")
                shown[measure] = _estimate(f"fresh.{name}", f"fresh.{ranks}")
            else:
                # All fractions of a measure are read from the same sums.
                over = f"OVER (PARTITION BY {partition}"
                marks[f"sum(v._n) {over} ORDER BY v.{value}) AS _up_to{number}"] = None
                marks[f"sum(v._n) {over}) AS _of{number}"] = None
                found.append(
                    f"min(u.{value}) FILTER (WHERE {mine} AND u._up_to{number} >= "
                    f"ceil({what} * u._of{number})) AS {name}"
                )
                shown[measure] = _middle_of_bin(f"fresh.{name}")
    return list(marks), found, shown


def _estimate(registers: str, ranks: str) -> str:
    m = REGISTERS
    raw = f"{0.7213 / (1 + 1.079 / m) * m * m!r} / ({ranks} + {m} - {registers})"
    return (
        f"round(CASE WHEN {raw} <= {2.5 * m} AND {registers} < {m} "
        f"THEN {m} * ln({m}::numeric / ({m} - {registers})) ELSE {raw} END)::bigint"
    )


def _middle_of_bin(code: str) -> str:
    middle = f"2 * power({BASE!r}::float8, abs({code}) - {SHIFT}) / {BASE + 1!r}"
    return (
        f"CASE WHEN {code} = 0 THEN 0 WHEN {code} > {INFINITE} THEN 'NaN' "
        f"WHEN abs({code}) = {INFINITE} THEN sign({code}) * 'Infinity'::float8 "
        f"ELSE sign({code}) * {middle} END"
    )


def settled_rows(spec: RollupSpec, part: Target) -> str:
    """Return the query for what a run would leave in a table that keeps smallest or largest values.

    Where a value has gone, only the source knows which one is the next; of a group of which rows
    have been expired not even that.
    """
    target = part.target
    pairs = list(zip(part.extremes, target.extremes.values(), strict=True))
    columns = [*part.group, *part.additive, *part.extremes, "_lost"]
    of_target = [*(f"t.{column}" for column in columns[:-1]), "false"]
    of_log = [*part.groups, *part.weights]
    of_log += (f"CASE WHEN l.n > 0 THEN l.{quote(c)} END" for _, (_, c) in pairs)
    of_log.append("l.n < 0")
    sums = [*(f"u.{c}" for c in part.group), *(f"sum(u.{c})" for c in part.additive)]
    sums += (f"{kind}(u.{c})" for c, (kind, _) in pairs)
    sums.append("bool_or(u._lost)")
    same = " AND ".join(
        f"{sql} IS NOT DISTINCT FROM s.{c}" for sql, c in zip(part.groups, part.group, strict=True)
    )
    if spec.key is not None and target.keyed:
        same += f" AND l.key = s.{quote(next(iter(part.by)))}"
    conditions = [_not_refused(spec, qualify(spec.horizon, spec.schema))]
    if target.bucket is not None and target.every is not None and not target.undated:
        # An index on the time serves this.
        time, bucket = f"r.{quote(spec.time or '')}", f"s.{quote(target.bucket)}"
        conditions.append(f"{time} >= {bucket} AND {time} < {bucket_end(target.every, bucket)}")
    wheres = " AND ".join(filter(None, conditions))
    raw = raw_rows(spec, qualify(spec.source, spec.schema)) + (f" WHERE {wheres}" if wheres else "")
    rows = quote(target.rows)
    table, log = qualify(target.table, spec.schema), qualify(spec.log, spec.schema)
    listed = [f"s.{column}" for column in (*part.group, *part.additive)]
    listed += (
        f"CASE WHEN s._lost THEN (SELECT CASE WHEN count(*) >= s.{rows} THEN "
        f"{kind}(l.{quote(value)}) ELSE s.{c} END FROM ({raw}) AS l WHERE {part.counts} "
        f"AND {same}) ELSE s.{c} END AS {c}"
        for c, (kind, value) in pairs
    )
    return (
        f"  SELECT {_listed(listed)} FROM (\n    SELECT {_named(sums, columns)} FROM (\n"
        f"      SELECT {_named(of_target, columns)} FROM {table} AS t\n      UNION ALL "
        f"SELECT {_named(of_log, columns)} FROM {log} AS l WHERE {part.counts}\n"
        f"    ) AS u GROUP BY {_positions(part.group)} HAVING sum(u.{rows}) > 0\n  ) AS s"
    )


def best_order(target: TargetSpec, measure: str) -> str:
    """Return the order of groups: by a measure, the greatest first; then by the group."""
    group = [*([target.bucket] if target.bucket else []), *(c for c in target.by if c != TOTAL)]
    rest = "".join(f", {quote(column)} ASC NULLS LAST" for column in group)
    return f"{quote(measure)} DESC NULLS LAST{rest}"


def best_query(
    spec: RollupSpec,
    target: TargetSpec,
    measure: str,
    *,
    of_table: Sequence[str] = (),
    of_log: Sequence[str] = (),
) -> str:
    """Return the query for the groups of a table in the order of a measure, fresh.

    The groups that have changes pending are added up; the others are read by the table's ranking.
    Its columns are the dimensions, the bucket and the measure.

    Args:
        spec: The rollups of the source.
        target: The table.
        measure: The measure.
        of_table: Conditions for groups without changes, of the table `t`.
        of_log: Conditions for changes, of the log `l`: for whole groups.
    """
    part = Target(spec, target)
    log, table = qualify(spec.log, spec.schema), qualify(target.table, spec.schema)
    rank, group = quote(measure), _listed(part.group)
    asked = _listed(map(quote, (*target.by, *([target.bucket] if target.bucket else []))))
    columns = [*part.group, *part.additive]
    # An index serves equalities, and no IS NOT DISTINCT FROM.
    equal = " AND ".join(f"t.{c} = p.{c}" for c in part.group)
    same = " AND ".join(f"(t.{c} = p.{c} OR t.{c} IS NULL AND p.{c} IS NULL)" for c in part.group)
    null = " OR ".join(f"p.{c} IS NULL" for c in part.group)
    shown = dict(target.visible)[measure]
    sums = _named(
        [*(f"u.{c}" for c in part.group), *(f"sum(u.{c})" for c in part.additive)], columns
    )
    of_target = _listed(f"t.{c}" for c in columns)
    counts = " AND ".join([part.counts, *of_log])
    others = " AND ".join(of_table and ["", *of_table])
    return f"""WITH changed AS (
  SELECT {_named([*part.groups, *part.weights], columns)} FROM {log} AS l WHERE {counts}
), pending AS (
  SELECT DISTINCT {group} FROM changed
), added AS (
  SELECT {sums} FROM (
    SELECT {_listed(columns)} FROM changed
    UNION ALL
    SELECT {of_target} FROM pending AS p JOIN {table} AS t ON {equal}
    UNION ALL
    SELECT {of_target} FROM pending AS p JOIN {table} AS t ON {same} WHERE {null}
  ) AS u GROUP BY {_listed(f"u.{c}" for c in part.group)}
  HAVING sum(u.{quote(target.rows)}) > 0
), others AS (
  SELECT {_listed(f"t.{c}" for c in part.group)}, t.{rank} FROM {table} AS t
  WHERE NOT EXISTS (SELECT 1 FROM pending AS p WHERE {same}){others}
  ORDER BY {best_order(target, measure)} LIMIT :limit\0
)
SELECT * FROM (
  SELECT {asked}, {shown} AS {rank} FROM added
  UNION ALL
  SELECT {asked}, {rank} FROM others
) AS every_group ORDER BY {best_order(target, measure)}"""
