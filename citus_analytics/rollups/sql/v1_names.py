"""Names and expressions that the parts of version 1 share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from citus_analytics.sql import dollar_quote, literal, qualify, quote

if TYPE_CHECKING:
    from collections.abc import Iterable

    from citus_analytics.rollups.sql.spec import RollupSpec

# Shards, whose names only the server knows, stand in a statement as what no name can contain.
SOURCE: Final = "\0source"
TARGET: Final = "\0target"
CHANGES: Final = "\0changes"
OUTCOME: Final = "\0outcome"


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the machinery.

    Attributes:
        name: Its name, not quoted.
        head: What stands between its name and its body.
        body: Its body, as the database keeps it.
    """

    name: str
    head: str
    body: str

    def create(self, schema: str | None) -> str:
        """Return the statement that creates it."""
        body = dollar_quote(self.body, "function")
        return f"CREATE FUNCTION {qualify(self.name, schema)}{self.head} AS {body}"


def capture_name(spec: RollupSpec) -> str:
    """Return the name of the trigger function on the source."""
    return f"{spec.target}_capture"


def run_name(spec: RollupSpec) -> str:
    """Return the name of the function that runs the rollup and says what it did."""
    return f"{spec.target}_run"


def absorb_name(spec: RollupSpec) -> str:
    """Return the name of the trigger function, and of its trigger, on the change log."""
    return f"{spec.target}_absorb"


def signatures(spec: RollupSpec) -> tuple[str, ...]:
    """Return the functions as `DROP FUNCTION` and `regprocedure` name them, callers first."""
    named = (
        (spec.function, ""),
        (run_name(spec), "boolean"),
        (absorb_name(spec), ""),
        (capture_name(spec), ""),
        (f"{spec.target}_colocated", "oid, regclass"),
    )
    return tuple(f"{qualify(name, spec.schema)}({arguments})" for name, arguments in named)


def bucket_of(spec: RollupSpec, time: str) -> str:
    """Return the expression for the start of the bucket of a time."""
    return f"date_bin({width(spec)}, {time}, timestamptz '1970-01-01 00:00:00+00')"


def width(spec: RollupSpec) -> str:
    """Return the width of a bucket as an SQL value."""
    return f"interval '{spec.bucket.total_seconds():.6f} seconds'"


def shard_of(spec: RollupSpec, table: str) -> str:
    """Return the expression for a table's shard beside the one that a trigger fires on."""
    return f"{quote(f'{spec.target}_colocated')}(TG_RELID, {regclass(table)})"


def on_shards(statement: str, tag: str, *shards: str) -> str:
    """Return a quoted template of the server's `format`, with `shards` as its arguments."""
    template = statement.replace("%", "%%")
    for position, shard in enumerate(shards, start=1):
        template = template.replace(shard, f"%{position}$s")
    return dollar_quote(template, tag)


def regclass(name: str) -> str:
    """Return the expression for a table of the function's search path."""
    return f"{literal(quote(name))}::regclass"


def listed(parts: Iterable[str]) -> str:
    """Return a list as SQL writes it."""
    return ", ".join(parts)
