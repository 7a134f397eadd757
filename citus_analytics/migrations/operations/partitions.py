"""Operations that create and drop the partitions of a table that is partitioned by time.

They are plain SQL, the same on every server, so that the partitions are the same as well. Names
and ranges are those of Citus's functions of the same names ("Citus Utility Functions",
`create_time_partitions`, `drop_old_time_partitions`) in a session whose time zone is UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, NoReturn

from alembic.operations import Operations

from citus_analytics.errors import ArgumentError, OperationError
from citus_analytics.migrations.operations import partitions_sql
from citus_analytics.migrations.operations.base import Arguments, TableOperation
from citus_analytics.sql import qualify

if TYPE_CHECKING:
    from citus_analytics.migrations.operations.base import Step


@Operations.register_operation("create_time_partitions")
@dataclass(frozen=True, slots=True)
class CreateTimePartitionsOp(TableOperation):
    """Create the partitions of a span of time."""

    function: ClassVar = "create_time_partitions"

    table_name: str
    partition_interval: timedelta | str
    end_at: datetime
    start_from: datetime | None = None
    schema: str | None = None

    def __post_init__(self) -> None:
        _require_aware(f"{self.function}(end_at=...)", self.end_at)
        if self.start_from is not None:
            _require_aware(f"{self.function}(start_from=...)", self.start_from)
            if self.start_from >= self.end_at:
                raise ArgumentError(
                    f"{self.function}({self.subject!r}) must start before it ends, got "
                    f"start_from={self.start_from} and end_at={self.end_at}."
                )
        width = self.partition_interval
        if isinstance(width, timedelta) and width <= timedelta(0):
            raise ArgumentError(f"a partition_interval must be longer than 0, got {width}.")

    @classmethod
    def create_time_partitions(
        cls,
        operations: Operations,
        table_name: str,
        partition_interval: timedelta | str,
        end_at: datetime,
        *,
        start_from: datetime | None = None,
        schema: str | None = None,
    ) -> None:
        """Create the partitions of the time from `start_from` to `end_at`, both covered.

        Partitions that are there are left alone, and the new ones are in line with the first of
        them. The first one of all starts at a round time in UTC: the minute, hour, day, Monday,
        month, quarter or year that suits the interval.

        Args:
            operations: Filled in by Alembic.
            table_name: A table partitioned by the range of one date, timestamp or timestamptz.
            partition_interval: The width of a partition, as a `timedelta` or an SQL interval such
                as `1 month`.
            end_at: Where the last partition ends, or a little later.
            start_from: Where the first partition starts, or a little earlier; None is the time at
                which the migration runs.
            schema: The schema of the table, None for the first of the search path.

        Raises:
            ArgumentError: A datetime is naive, or the interval or the span is not positive.
            OperationError: The table is not partitioned like that.
        """
        operations.invoke(cls(table_name, partition_interval, end_at, start_from, schema))

    def arguments(self) -> Arguments:
        """Return what the function is called with."""
        positional = (self.table_name, self.partition_interval, self.end_at)
        return Arguments(positional, {"start_from": self.start_from, "schema": self.schema})

    def steps(self) -> tuple[Step, ...]:
        """Return what is to be executed."""
        table = qualify(self.table_name, self.schema)
        step = partitions_sql.create(table, self.partition_interval, self.start_from, self.end_at)
        return (step,)

    def reverse(self) -> NoReturn:
        """Refuse: which partitions it created, and which were there, only the server knew.

        Raises:
            OperationError: Always.
        """
        raise OperationError(
            f"{self.function}({self.subject!r}) cannot be reversed: a downgrade would drop rows. "
            "Drop the table, or some of its partitions, by name."
        )


@Operations.register_operation("drop_old_time_partitions")
@dataclass(frozen=True, slots=True)
class DropOldTimePartitionsOp(TableOperation):
    """Drop the partitions before a time, with their rows."""

    function: ClassVar = "drop_old_time_partitions"

    table_name: str
    older_than: datetime
    schema: str | None = None

    def __post_init__(self) -> None:
        _require_aware(f"{self.function}(older_than=...)", self.older_than)

    @classmethod
    def drop_old_time_partitions(
        cls,
        operations: Operations,
        table_name: str,
        older_than: datetime,
        *,
        schema: str | None = None,
    ) -> None:
        """Drop the partitions that end at `older_than` or before, with their rows.

        Rollups of the table keep their aggregates: dropping is not deleting.

        Args:
            operations: Filled in by Alembic.
            table_name: A table partitioned by the range of one date, timestamp or timestamptz.
            older_than: The end of the newest partition that goes.
            schema: The schema of the table, None for the first of the search path.

        Raises:
            ArgumentError: The datetime is naive.
            OperationError: The table is not partitioned like that.
        """
        operations.invoke(cls(table_name, older_than, schema))

    def arguments(self) -> Arguments:
        """Return what the function is called with."""
        return Arguments((self.table_name, self.older_than), {"schema": self.schema})

    def steps(self) -> tuple[Step, ...]:
        """Return what is to be executed."""
        return (partitions_sql.drop_old(qualify(self.table_name, self.schema), self.older_than),)

    def reverse(self) -> NoReturn:
        """Refuse: the rows are gone.

        Raises:
            OperationError: Always.
        """
        raise OperationError(
            f"{self.function}({self.subject!r}) cannot be reversed: the rows are gone."
        )


def _require_aware(argument: str, value: datetime) -> None:
    if value.tzinfo is None:
        raise ArgumentError(
            f"{argument} must have a time zone, got {value}. Write "
            "datetime(..., tzinfo=UTC), for one."
        )
