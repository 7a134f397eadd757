"""Shards that are moved, split, merged and brought home keep on logging, and nothing is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import URL, Connection, NullPool, create_engine, text

from citus_analytics.github.models import GITHUB_ROLLUP_1MIN, Base
from citus_analytics.migrations import AlterDistributedTableOp, CreateRollupsOp, DropRollupsOp
from citus_analytics.rollups.declare import rollups_of, specs_of
from citus_analytics.rollups.run import run_rollup, verify
from citus_analytics.schema import Distributed
from tests.operations import run
from tests.rollups import NOON, add, assert_adds_up, event
from tests.servers import ON_CITUS_ONLY, SHARD_COUNT

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = ON_CITUS_ONLY

# Most shards are in the log when the cluster changes under them.
USERS = 40

SHARDS = """
SELECT shardid, shardminvalue::int, shardmaxvalue::int, nodeid, groupid
FROM pg_dist_shard JOIN pg_dist_placement USING (shardid) JOIN pg_dist_node USING (groupid)
WHERE logicalrelid = 'github_events'::regclass ORDER BY shardid
"""

# The tables that are colocated with the events, and those that rollups have beside them.
WITHOUT_A_KEY = """
SELECT logicalrelid::text FROM pg_dist_partition
WHERE partmethod = 'h' AND NOT EXISTS (
  SELECT FROM pg_index WHERE indrelid = logicalrelid AND indisprimary)
ORDER BY 1
"""


@pytest.fixture
def cluster(database: URL) -> Iterator[Connection]:
    """A connection in autocommit, for what Citus runs outside of transactions."""
    engine = create_engine(database, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection


def change_something(connection: Connection) -> None:
    add(connection, *(event(user, repo_id=user % 3) for user in range(USERS)))
    connection.execute(text("UPDATE github_events SET event_type = 'X' WHERE user_id = 7"))
    connection.execute(text("DELETE FROM github_events WHERE user_id = 11"))


def assert_still_adds_up(connection: Connection) -> None:
    """What was logged before is rolled up, and so is what comes after."""
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    assert_adds_up(connection)
    change_something(connection)
    assert run_rollup(connection, GITHUB_ROLLUP_1MIN).changes >= USERS - 1
    assert_adds_up(connection)


def assert_truncates(connection: Connection) -> None:
    connection.execute(text("TRUNCATE github_events"))
    add(connection, event(1, at=NOON))
    run_rollup(connection, GITHUB_ROLLUP_1MIN)
    assert_adds_up(connection)
    for rollup in rollups_of(Base.metadata):
        assert [each for each in verify(connection, rollup) if each.groups] == []


@pytest.mark.parametrize("mode", ["block_writes", "force_logical"])
def test_moved_shards(cluster: Connection, mode: str) -> None:
    change_something(cluster)
    move_shards(cluster, mode)
    assert_still_adds_up(cluster)


def test_truncate_after_shards_have_moved(cluster: Connection) -> None:
    change_something(cluster)
    move_shards(cluster, "block_writes")
    assert_still_adds_up(cluster)
    assert_truncates(cluster)


def move_shards(cluster: Connection, mode: str) -> None:
    if mode == "force_logical":
        # Rows that are deleted from tables without a key must be named as a whole.
        for (table,) in cluster.execute(text(WITHOUT_A_KEY)).all():
            cluster.exec_driver_sql(f"ALTER TABLE {table} REPLICA IDENTITY FULL")
    shards = cluster.execute(text(SHARDS)).all()
    nodes = {shard.nodeid for shard in shards}
    for shard in shards:
        (target,) = nodes - {shard.nodeid}
        cluster.execute(
            text(
                "SELECT citus_move_shard_placement(:shard, :source, :target, CAST(:mode AS "
                "citus.shard_transfer_mode))"
            ),
            {"shard": shard.shardid, "source": shard.nodeid, "target": target, "mode": mode},
        )
    moved = cluster.execute(text(SHARDS)).all()
    assert all(old.nodeid != new.nodeid for old, new in zip(shards, moved, strict=True))


def test_split_shards(cluster: Connection) -> None:
    change_something(cluster)
    for shard in cluster.execute(text(SHARDS)).all():
        middle = (shard.shardminvalue + shard.shardmaxvalue) // 2
        cluster.execute(
            text(
                "SELECT citus_split_shard_by_split_points(:shard, ARRAY[CAST(:middle AS text)], "
                "ARRAY[CAST(:node AS int), CAST(:node AS int)], 'block_writes')"
            ),
            {"shard": shard.shardid, "middle": str(middle), "node": shard.nodeid},
        )
    assert len(cluster.execute(text(SHARDS)).all()) == 2 * SHARD_COUNT
    assert_still_adds_up(cluster)


def test_another_number_of_shards(cluster: Connection, database: URL) -> None:
    change_something(cluster)
    (spec,) = specs_of(Base.metadata)
    reshard = AlterDistributedTableOp(
        "github_events",
        shard_count=6,
        cascade_to_colocated=True,
        was=Distributed("user_id", shard_count=SHARD_COUNT),
    )
    with create_engine(database, poolclass=NullPool).begin() as connection:
        rollups = DropRollupsOp(spec, keep_state=True), CreateRollupsOp(spec, again=True)
        run(connection, rollups[0], reshard, rollups[1])
    assert len(cluster.execute(text(SHARDS)).all()) == 6
    assert_still_adds_up(cluster)
    assert_truncates(cluster)


def test_tables_brought_home(cluster: Connection, database: URL) -> None:
    change_something(cluster)
    (spec,) = specs_of(Base.metadata)
    with create_engine(database, poolclass=NullPool).begin() as connection:
        run(connection, DropRollupsOp(spec, keep_state=True))
        for (table,) in connection.execute(text("SELECT table_name FROM citus_tables")).all():
            connection.exec_driver_sql(f"SELECT undistribute_table('{table}')")
        run(connection, CreateRollupsOp(spec, again=True))
    assert cluster.execute(text("SELECT count(*) FROM citus_tables")).scalar_one() == 0
    assert_still_adds_up(cluster)
    assert_truncates(cluster)
