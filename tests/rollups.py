"""What every rollup test asks: are the rolled-up groups those of the raw events?"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection, insert, text

from citus_analytics.github.models import github_events
from citus_analytics.migrations import (
    CreateDistributedTableOp,
    CreateReferenceTableOp,
    CreateRollupsOp,
)
from citus_analytics.rollups.declare import specs_of
from citus_analytics.schema import Distributed, Reference, declared_distribution

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import MetaData
    from sqlalchemy.orm import Session

Group: TypeAlias = tuple[Any, ...]

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

CREATED: dict[str, Any] = {
    "event_type": "CreateEvent",
    "payload": {"ref_type": "repository"},
}
"""The columns of an event that creates a repository."""


def event(user_id: int | None = 1, *, at: datetime | None = NOON, **columns: Any) -> dict[str, Any]:
    """Return the row of an event, ready to insert."""
    given = {"event_type": "PushEvent", "repo_id": 1, **columns}
    return {"event_id": 1, "user_id": user_id, "created_at": at, **given}


def create(connection: Connection, metadata: MetaData) -> None:
    """Create the tables of a metadata, distribute them as declared, and create their rollups."""
    metadata.create_all(connection)
    operations = Operations(MigrationContext.configure(connection))
    declared = [(table, declared_distribution(table)) for table in metadata.sorted_tables]
    for colocated in (False, True):
        for table, distribution in declared:
            match distribution:
                case Distributed() if distribution.names_a_table is colocated:
                    operation = CreateDistributedTableOp.of(table.name, distribution, table.schema)
                    operations.invoke(operation)
                case Reference() if colocated:
                    operations.invoke(CreateReferenceTableOp(table.name, schema=table.schema))
    for spec in specs_of(metadata):
        operations.invoke(CreateRollupsOp(spec))


def add(connection: Connection | Session, *events: dict[str, Any]) -> None:
    """Insert events."""
    connection.execute(insert(github_events), list(events))


def raw_groups(connection: Connection | Session) -> Counter[Group]:
    """Return the groups that the rollup must have, computed in Python from the raw events."""
    rows = connection.execute(
        text("SELECT event_type, repo_id, user_id, created_at FROM github_events")
    )
    return Counter(
        (event_type, repo_id, user_id, at.replace(second=0, microsecond=0))
        for event_type, repo_id, user_id, at in rows
        if at is not None
    )


def rolled_up_groups(
    connection: Connection | Session, table: str = "github_rollup_1min"
) -> Counter[Group]:
    """Return the groups that the rollup has; one that stands in two rows fails the test."""
    rows = connection.execute(
        text(f"SELECT event_type, repo_id, user_id, ingest_time, total_events FROM {table}")
    ).all()
    groups = Counter({tuple(group): total for *group, total in rows})
    assert len(groups) == len(rows), "a group stands in more than one row"
    return groups


def assert_adds_up(connection: Connection | Session) -> None:
    """Fail unless the rollup equals the aggregate of the raw events, group by group."""
    expected, found = raw_groups(connection), rolled_up_groups(connection)
    assert _differences(expected, found) == []


def _differences(expected: Counter[Group], found: Counter[Group]) -> list[str]:
    keys: Iterable[Group] = expected.keys() | found.keys()
    return [
        f"{key}: {expected[key]} events, {found[key]} rolled up"
        for key in keys
        if expected[key] != found[key]
    ][:5]
