"""What a rollup's SQL is rendered from: plain names and numbers, as a migration freezes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from citus_analytics.errors import DeclarationError
from citus_analytics.sql import DIALECT, LONGEST_NAME, quote

if TYPE_CHECKING:
    from citus_analytics.rollups.declare import Rollup

# The longest suffix that is put behind the target's name is "_capture_truncate".
_LONGEST_TARGET = LONGEST_NAME - len("_capture_truncate")
_MEASURE = re.compile(r"(count)\(\*\)|(sum|min|max)\((.+)\)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class RollupSpec:
    """A rollup in plain names; see `citus_analytics.rollups.declare.Rollup` for what they mean.

    Attributes:
        function: The function that runs the rollup.
        source: The table of raw rows.
        target: The table of aggregates.
        state: The table that says when the rollup last ran.
        state_column: Its only column.
        key: The distribution column, in the source and in the target.
        key_type: Its SQL type.
        time_column: The column of the source that says when a row happened.
        bucket: The width of a bucket.
        bucket_column: The column of the target that holds the start of a bucket.
        dimensions: The columns by which rows are grouped.
        measures: The aggregate, such as `count(*)` or `sum(size)`, by column of the target.
        schema: The schema of all these tables, None for the first one of the search path.

    Raises:
        DeclarationError: The target's name is too long for the names derived from it, or a measure
            is not `count(*)`, `sum(column)`, `min(column)` or `max(column)`.
    """

    function: str
    source: str
    target: str
    state: str
    state_column: str
    key: str
    key_type: str
    time_column: str
    bucket: timedelta
    bucket_column: str
    dimensions: tuple[str, ...]
    measures: Mapping[str, str]
    schema: str | None = None

    def __post_init__(self) -> None:
        if len(self.target.encode()) > _LONGEST_TARGET:
            raise DeclarationError(
                f"rollup {self.target!r} has a name of {len(self.target.encode())} bytes; names "
                f"derived from it fit into PostgreSQL's 63 only up to {_LONGEST_TARGET}."
            )
        for measure in self.measures.values():
            _split_measure(measure)

    @classmethod
    def of(cls, rollup: Rollup) -> Self:
        """Return the plain names of a declared rollup."""
        (state_column,) = rollup.state.columns
        (key_type,) = (c.type for c in rollup.source.columns if c.name == rollup.key)
        return cls(
            function=rollup.function,
            source=rollup.source.name,
            target=rollup.target.name,
            state=rollup.state.name,
            state_column=state_column.name,
            key=rollup.key,
            key_type=key_type.compile(DIALECT),
            time_column=rollup.time_column,
            bucket=rollup.bucket,
            bucket_column=rollup.bucket_column,
            dimensions=rollup.dimensions,
            measures={measure.name: str(measure) for measure in rollup.measures},
            schema=rollup.source.schema,
        )

    @property
    def changes(self) -> str:
        """The change log's name."""
        return f"{self.target}_changes"

    @property
    def outcome(self) -> str:
        """The name of the table in which shards report what a run did."""
        return f"{self.target}_outcome"

    def measure_sql(self) -> tuple[str, ...]:
        """Return the measures' aggregates over a row `s` of the source, quoted."""
        parts = (_split_measure(measure) for measure in self.measures.values())
        return tuple(
            f"{aggregate}(s.{quote(column)})" if column else "count(*)"
            for aggregate, column in parts
        )


def _split_measure(measure: str) -> tuple[str, str | None]:
    match = _MEASURE.fullmatch(measure)
    if match is None:
        raise DeclarationError(
            f"a rollup's measure must be count(*), sum(column), min(column) or max(column), got "
            f"{measure!r}."
        )
    return match[1] or match[2], match[3]
