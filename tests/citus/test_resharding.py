"""Shards that are moved, split, merged and brought home keep on logging, and nothing is lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import URL, Connection, NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from citus_analytics.github.models import GITHUB_ROLLUP_1MIN, Base
from citus_analytics.migrations import AlterDistributedTableOp, CreateRollupsOp, DropRollupsOp
from citus_analytics.rollups.declare import rollups_of, specs_of
from citus_analytics.rollups.run import run_rollup, verify
from citus_analytics.schema import Distributed
from tests.autogenerate import differences
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

# Tables on shards of which no row can be named when it is deleted.
WITHOUT_IDENTITY = """
SELECT oid::regclass::text FROM pg_class AS c JOIN pg_dist_partition ON logicalrelid = c.oid
WHERE partmethod = 'h' AND relreplident = 'd' AND NOT EXISTS (
  SELECT FROM pg_index WHERE indrelid = c.oid AND indisprimary)
ORDER BY 1
"""
# How the rows of each shard of a table are named.
IDENTITIES = """
SELECT result FROM run_command_on_shards(
  :table, 'SELECT relreplident FROM pg_class WHERE oid = ''%s''::regclass')
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


def test_what_rollups_have_beside_their_source_can_be_moved(cluster: Connection) -> None:
    found = [row[0] for row in cluster.execute(text(WITHOUT_IDENTITY))]
    # The tutorial's tables have no primary key; their owner decides.
    assert found == ["github_events", "github_users"]


def test_a_source_without_identity_is_told_of(
    cluster: Connection, database: URL, caplog: pytest.LogCaptureFixture
) -> None:
    spec, _ = specs_of(Base.metadata)
    anew = DropRollupsOp(spec, keep_state=True), CreateRollupsOp(spec, again=True)
    with create_engine(database, poolclass=NullPool).begin() as connection:
        run(connection, *anew)
    assert "ALTER TABLE github_events REPLICA IDENTITY FULL" in caplog.text
    caplog.clear()
    name_rows(cluster)
    with create_engine(database, poolclass=NullPool).begin() as connection:
        run(connection, *anew)
    assert "REPLICA IDENTITY" not in caplog.text


@pytest.mark.parametrize("how", ["auto", "force_logical", "rebalance", "redistribute"])
def test_shards_that_change_beside_writers(cluster: Connection, database: URL, how: str) -> None:
    name_rows(cluster)
    change_something(cluster)
    if how == "rebalance":
        # All on one node, from where half of them go back.
        shards = cluster.execute(text(SHARDS)).all()
        for shard in shards:
            if shard.nodeid != shards[0].nodeid:
                move_shard(cluster, shard.shardid, shard.nodeid, shards[0].nodeid, "block_writes")
    stop, written = Event(), Event()

    def write() -> int:
        engine, turns = create_engine(database, poolclass=NullPool), 0
        with engine.connect() as connection:
            while not stop.is_set():
                try:
                    change_something(connection)
                    run_rollup(connection, GITHUB_ROLLUP_1MIN)
                    connection.commit()
                    turns += 1
                    written.set()
                except DBAPIError as error:
                    # Planned before a shard went, and executed after.
                    if "could not find" not in str(error) and "does not exist" not in str(error):
                        raise
                    connection.rollback()
        return turns

    with ThreadPoolExecutor() as pool:
        writer = pool.submit(write)
        try:
            assert written.wait(60)
            match how:
                case "rebalance":
                    cluster.execute(text("SELECT citus_rebalance_start()"))
                    cluster.execute(text("SELECT citus_rebalance_wait()"))
                    placed = [shard.nodeid for shard in cluster.execute(text(SHARDS)).all()]
                    assert len(set(placed)) == 2
                case "redistribute":
                    cluster.exec_driver_sql("SET citus.enable_unsafe_triggers TO on")
                    cluster.exec_driver_sql(
                        "SELECT alter_distributed_table('github_events', shard_count => 6, "
                        "cascade_to_colocated => true)"
                    )
                case _:
                    move_shards(cluster, how)
        finally:
            stop.set()
        assert writer.result() > 0
    for table in ("github_events_log", "github_rollup_1min", "github_events_by_type_1_day_outbox"):
        found = cluster.execute(text(IDENTITIES), {"table": table}).scalars()
        assert set(found) == {"f"}, table
    assert differences(database, Base.metadata) == []
    assert_still_adds_up(cluster)
    for rollup in rollups_of(Base.metadata):
        assert [each for each in verify(cluster, rollup) if each.groups] == []


def name_rows(cluster: Connection) -> None:
    """Give a replica identity to the tables that have none."""
    for (table,) in cluster.execute(text(WITHOUT_IDENTITY)).all():
        cluster.exec_driver_sql(f"ALTER TABLE {table} REPLICA IDENTITY FULL")


def move_shard(cluster: Connection, shard: int, source: int, target: int, mode: str) -> None:
    cluster.execute(
        text(
            "SELECT citus_move_shard_placement(:shard, :source, :target, CAST(:mode AS "
            "citus.shard_transfer_mode))"
        ),
        {"shard": shard, "source": source, "target": target, "mode": mode},
    )


def move_shards(cluster: Connection, mode: str) -> None:
    if mode == "force_logical":
        name_rows(cluster)
    shards = cluster.execute(text(SHARDS)).all()
    nodes = {shard.nodeid for shard in shards}
    for shard in shards:
        (target,) = nodes - {shard.nodeid}
        move_shard(cluster, shard.shardid, shard.nodeid, target, mode)
    moved = cluster.execute(text(SHARDS)).all()
    assert all(old.nodeid != new.nodeid for old, new in zip(shards, moved, strict=True))


def test_split_shards(cluster: Connection) -> None:
    change_something(cluster)
    split_shards(cluster, "block_writes")
    assert_still_adds_up(cluster)


def split_shards(cluster: Connection, mode: str) -> None:
    for shard in cluster.execute(text(SHARDS)).all():
        middle = (shard.shardminvalue + shard.shardmaxvalue) // 2
        cluster.execute(
            text(
                "SELECT citus_split_shard_by_split_points(:shard, ARRAY[CAST(:middle AS text)], "
                "ARRAY[CAST(:node AS int), CAST(:node AS int)], "
                "CAST(:mode AS citus.shard_transfer_mode))"
            ),
            {
                "shard": shard.shardid,
                "middle": str(middle),
                "node": shard.nodeid,
                "mode": mode,
            },
        )
    assert len(cluster.execute(text(SHARDS)).all()) == 2 * SHARD_COUNT


def test_another_number_of_shards(cluster: Connection, database: URL) -> None:
    change_something(cluster)
    specs = specs_of(Base.metadata)
    reshard = AlterDistributedTableOp(
        "github_events",
        shard_count=6,
        cascade_to_colocated=True,
        was=Distributed("user_id", shard_count=SHARD_COUNT),
    )
    with create_engine(database, poolclass=NullPool).begin() as connection:
        run(connection, *(DropRollupsOp(spec, keep_state=True) for spec in specs))
        run(connection, reshard)
        run(connection, *(CreateRollupsOp(spec, again=True) for spec in specs))
    assert len(cluster.execute(text(SHARDS)).all()) == 6
    assert_still_adds_up(cluster)
    assert_truncates(cluster)


def test_tables_brought_home(cluster: Connection, database: URL) -> None:
    change_something(cluster)
    specs = specs_of(Base.metadata)
    with create_engine(database, poolclass=NullPool).begin() as connection:
        run(connection, *(DropRollupsOp(spec, keep_state=True) for spec in specs))
        for (table,) in connection.execute(text("SELECT table_name FROM citus_tables")).all():
            connection.exec_driver_sql(f"SELECT undistribute_table('{table}')")
        run(connection, *(CreateRollupsOp(spec, again=True) for spec in specs))
    assert cluster.execute(text("SELECT count(*) FROM citus_tables")).scalar_one() == 0
    assert_still_adds_up(cluster)
    assert_truncates(cluster)
