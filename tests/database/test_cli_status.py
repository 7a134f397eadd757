"""`citus-analytics status`, on both kinds of server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from citus_analytics.__main__ import main
from tests.servers import execute

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL

    from tests.servers import DatabaseServer


@pytest.fixture
def status(database: URL, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Returns what the command prints about a migrated database."""

    def status(*options: str) -> str:
        address = database.set(drivername="postgresql").render_as_string(hide_password=False)
        assert main(["status", "--database-url", address, *options]) == 0
        return capsys.readouterr().out

    return status


def line_about(table: str, told: str) -> list[str]:
    """Return the cells of the first line about a table."""
    return next(line.split() for line in told.splitlines() if f" {table} " in line)


def test_for_a_person(server: DatabaseServer, database: URL, status: Callable[..., str]) -> None:
    told = status()
    assert told.splitlines()[0].startswith("PostgreSQL ")
    assert "citus_analytics.catalog.cluster_status(connection)" in told
    events = line_about("public.github_events", told)
    if server.kind == "postgresql":
        assert "without Citus" in told.splitlines()[0]
        assert events[1] == "heap"
        assert "Nodes" not in told
        return
    assert events[1:6] == ["distributed", "user_id", "1", "4", "heap"]
    # The setting of the server, which is not what the tables have.
    execute(database, f"ALTER DATABASE {database.database} SET citus.shard_count TO 7")
    assert "2 worker nodes; new tables get 7 shards" in status().splitlines()[0]
    assert json.loads(status("--json"))["server"]["new_table_shards"] == 7
    assert line_about("public.latest_rollup", told)[1:5] == ["local", "-", "-", "-"]
    nodes = [line.split() for line in told.splitlines() if "127.0.0.1:" in line]
    assert [node[2:4] for node in nodes] == [["coordinator", "ok"], *[["worker", "ok"]] * 2]
    assert "Skew" in told
    assert "Nothing needs attention." in told


def test_what_is_conspicuous(
    server: DatabaseServer, database: URL, status: Callable[..., str]
) -> None:
    execute(
        database,
        'CREATE TABLE "Hot Spot" (id int, t text)',
        "CREATE TABLE parts (id int) PARTITION BY LIST (id)",
        "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1)",
        "CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2)",
        "CREATE EXTENSION hstore",
        "CREATE TABLE of_hstore (id int)",
        "ALTER EXTENSION hstore ADD TABLE of_hstore",
    )
    if server.kind == "citus":
        execute(database, """SELECT create_distributed_table('"Hot Spot"', 'id')""")
    execute(
        database,
        "INSERT INTO \"Hot Spot\" SELECT 1, repeat('x', 99) FROM generate_series(1, 40000)",
    )
    told = status()
    assert "2 partitions" in told
    assert "parts_1" not in told
    assert "of_hstore" not in told
    assert "public.Hot Spot" in told
    if server.kind == "citus":
        assert 'the largest shard of "public"."Hot Spot"' in told
        assert "warnings" in told


def test_in_json(server: DatabaseServer, status: Callable[..., str]) -> None:
    document = json.loads(status("--json"))
    tables = {table["name"]: table for table in document["tables"]}
    events = tables["github_events"]
    assert events["bytes"] >= 5 * 8192
    assert document["findings"] == []
    if server.kind == "postgresql":
        assert (events["kind"], events["skew"]) == ("local", None)
        assert (document["nodes"], document["links"]) == ([], [])
        assert document["server"]["citus"] is None
        return
    assert (events["kind"], events["column"], events["shard_count"]) == (
        "distributed",
        "user_id",
        4,
    )
    assert events["skew"] == 1.0
    assert [node["reachable"] for node in document["nodes"]] == [True] * 3
    # Twenty colocated tables and outboxes, of four shards each, and reference tables.
    assert [node["shards"] for node in document["nodes"]] == [None, 20 * 4 // 2, 20 * 4 // 2]
    assert len(document["links"]) == 9
    assert all(link["connected"] for link in document["links"])
    groups = [group["tables"] for group in document["colocation_groups"]]
    assert sum('"public"."github_events"' in tables for tables in groups) == 1
