"""A cluster that is not as it should be, and catalogs of older versions."""

from __future__ import annotations

import json
import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy_utils import create_database

from citus_analytics import catalog
from citus_analytics.__main__ import main
from tests.servers import (
    ON_BREAKABLE_CITUS,
    ON_CITUS_ONLY,
    ON_SINGLE_NODE_CITUS,
    SHARD_COUNT,
    execute,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Engine

    from tests.servers import DatabaseServer


@pytest.fixture
def broken_worker(server: DatabaseServer, database: URL) -> Iterator[int]:
    """The index of a node that has been killed, and comes back at the end."""
    worker = server.nodes[1]
    os.kill(worker.pid, signal.SIGKILL)
    yield 1
    worker.start()


@contextmanager
def autocommit(engine: Engine) -> Iterator[Connection]:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield connection


def kinds(connection: Connection) -> list[str]:
    return [finding.kind for finding in catalog.cluster_status(connection).findings]


@pytest.mark.faults
@ON_BREAKABLE_CITUS
def test_a_stopped_worker(broken_worker: int, connection: Connection) -> None:
    connection.execute(text("CREATE TABLE here (id int)"))
    connection.execute(text("INSERT INTO here VALUES (1)"))
    found = catalog.cluster_status(connection)
    dead = found.nodes[broken_worker].id
    assert [node.node for node in found.health.nodes if not node.reachable] == [dead]
    (error,) = [node.error for node in found.health.nodes if node.error is not None]
    assert f":{found.nodes[broken_worker].port}" in error
    assert not found.health.healthy
    assert found.health.broken == ()
    for link in found.health.links:
        expected = None if link.source == dead else link.target != dead
        assert link.connected is expected
    assert len(found.health.links) == len(found.nodes) ** 2
    for shard in found.shards:
        for placement in shard.placements:
            assert (placement.bytes is None) == (placement.node == dead)
    sizes = {size.name: size.bytes for size in found.sizes}
    assert (sizes["github_events"], sizes["here"]) == (None, 8192)
    assert {table.ratio for table in found.skew} == {None}
    (finding,) = found.findings
    assert finding.kind == "node_unreachable"
    assert str(found.nodes[broken_worker]) in finding.message
    # The transaction has not suffered.
    assert connection.execute(text("SELECT count(*) FROM here")).scalar_one() == 1


@pytest.mark.faults
@ON_BREAKABLE_CITUS
def test_the_status_with_a_stopped_worker(
    broken_worker: int, database: URL, capsys: pytest.CaptureFixture[str]
) -> None:
    address = database.set(drivername="postgresql").render_as_string(hide_password=False)
    assert main(["status", "--database-url", address]) == 0
    told = capsys.readouterr().out
    assert "does not answer" in told
    assert "1 warning\n" in told
    assert main(["status", "--json", "--database-url", address]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [node["reachable"] for node in document["nodes"]].count(False) == 1
    assert document["nodes"][broken_worker]["bytes"] is None
    assert [finding["kind"] for finding in document["findings"]] == ["node_unreachable"]


@ON_CITUS_ONLY
def test_a_worker_that_is_not_active(server: DatabaseServer, empty_database: URL) -> None:
    execute(
        empty_database,
        "CREATE TABLE a (id int)",
        "SET citus.shard_replication_factor TO 2; SELECT create_distributed_table('a', 'id')",
        "SELECT citus_disable_node(nodename, nodeport, synchronous => true)"
        " FROM pg_dist_node WHERE groupid = 2",
    )
    with autocommit(create_engine(empty_database, poolclass=NullPool)) as connection:
        found = catalog.cluster_status(connection)
        (inactive,) = [node.id for node in found.nodes if not node.active]
        assert inactive not in [node.node for node in found.health.nodes]
        placements = [placement for shard in found.shards for placement in shard.placements]
        assert {p.bytes for p in placements if p.node == inactive} == {None}
        assert {p.bytes for p in placements if p.node != inactive} == {0}
        (finding,) = [each for each in found.findings if each.kind == "node_inactive"]
        assert f"holds {SHARD_COUNT} shards" in finding.message
        # The advice works. The copies there were out of date: Citus has dropped them.
        advice = finding.message[finding.message.index("SELECT") :].rstrip(".")
        connection.exec_driver_sql(advice)
        assert kinds(connection) == ["node_unused"]


@ON_CITUS_ONLY
def test_a_worker_that_has_got_nothing_yet(server: DatabaseServer, empty_database: URL) -> None:
    execute(
        empty_database,
        "SELECT citus_set_node_property(nodename, nodeport, 'shouldhaveshards', groupid = 1)"
        " FROM pg_dist_node WHERE groupid > 0",
        "CREATE TABLE a (id int)",
        "SELECT create_distributed_table('a', 'id')",
    )
    engine = create_engine(empty_database, poolclass=NullPool)
    with autocommit(engine) as connection:
        assert kinds(connection) == []
        turn = (
            "SELECT citus_set_node_property(nodename, nodeport, 'shouldhaveshards', {})"
            " FROM pg_dist_node WHERE groupid = {}"
        )
        connection.execute(text(turn.format("true", 2)))
        found = catalog.cluster_status(connection)
        assert [each.kind for each in found.findings] == ["node_unused"]
        assert [(load.shards, load.shards_ratio) for load in found.loads] == [
            (SHARD_COUNT, 2.0),
            (0, 0.0),
        ]
        connection.execute(text(turn.format("false", 1)))
        assert set(kinds(connection)) == {"node_to_be_drained", "node_unused"}
        connection.execute(text("CALL citus_cleanup_orphaned_resources()"))
        connection.execute(text(turn.format("true", 1)))
        connection.execute(
            text("SELECT rebalance_table_shards(shard_transfer_mode => 'block_writes')")
        )
        assert kinds(connection) == []


@ON_CITUS_ONLY
def test_a_coordinator_that_nobody_knows(server: DatabaseServer, empty_database: URL) -> None:
    with create_engine(empty_database, poolclass=NullPool).connect() as connection:
        connection.execute(
            text("SELECT citus_remove_node(nodename, nodeport) FROM pg_dist_node WHERE groupid = 0")
        )
        connection.execute(text("CREATE TABLE a (id int)"))
        connection.execute(text("SELECT create_distributed_table('a', 'id')"))
        assert not any(node.is_coordinator for node in catalog.nodes(connection))
        assert [table.kind for table in catalog.tables(connection)] == ["distributed"]
        found = catalog.cluster_status(connection)
        assert "coordinator_not_in_metadata" in [each.kind for each in found.findings]


# Lays out a table with a shard as this node would have it, by hand: the library that is loaded
# has outgrown the functions of the old versions.
OLD_TABLE = """
CREATE TABLE t (id int, x int);
CREATE TABLE t_102008 (id int, x int);
INSERT INTO t_102008 SELECT n, n FROM generate_series(1, 1000) AS n;
INSERT INTO pg_dist_colocation VALUES (1, 1, 1, 23, 0);
INSERT INTO pg_dist_partition (logicalrelid, partmethod, partkey, colocationid, repmodel)
VALUES ('t'::regclass, 'h', column_name_to_column('t', 'x'), 1, 's');
INSERT INTO pg_dist_shard (logicalrelid, shardid, shardstorage, shardminvalue, shardmaxvalue)
VALUES ('t'::regclass, 102008, 't', '-2147483648', '2147483647');
INSERT INTO pg_dist_placement (placementid, shardid, shardstate, shardlength, groupid)
VALUES (1, 102008, 1, 0, 0);
"""


@ON_SINGLE_NODE_CITUS
@pytest.mark.parametrize("version", ["11.0-4", "11.3-2", "12.1-1", "13.0-1"])
def test_catalogs_of_older_versions(server: DatabaseServer, version: str) -> None:
    url = server.nodes[0].url_for(f"citus_{version}")
    create_database(url, template="template1")
    try:
        execute(url, f'ALTER DATABASE "{url.database}" SET citus.enable_version_checks TO off')
        execute(url, f"CREATE EXTENSION citus VERSION '{version}'")
        port = int(str(url.query["port"]))
        execute(url, f"SELECT citus_set_coordinator_host('127.0.0.1', {port})", OLD_TABLE)
        with create_engine(url, poolclass=NullPool).connect() as connection:
            assert catalog.citus_version(connection) == (
                *(int(part) for part in version.split("-")[0].split(".")),
            )
            found = catalog.cluster_status(connection)
    finally:
        server.drop_database(url)
    (table,) = [table for table in found.tables if table.extension is None]
    assert (table.name, table.kind, table.column) == ("t", "distributed", "x")
    assert (table.colocation_id, table.shard_count) == (1, 1)
    (shard,) = found.shards
    assert (shard.hash_range, shard.bytes) == ((-(2**31), 2**31 - 1), found.sizes[-1].bytes)
    assert (shard.bytes or 0) > 32768
    assert [group.tables for group in found.groups] == [('"public"."t"',)]
    assert found.health.healthy
