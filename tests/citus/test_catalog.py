"""How the tables of a cluster are spread, as the catalogs tell it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import URL, Connection, NullPool, create_engine, text
from sqlalchemy_utils import create_database

from citus_analytics import catalog
from tests.servers import ON_CITUS_ONLY, SHARD_COUNT, execute, free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import DatabaseServer

pytestmark = ON_CITUS_ONLY

TABLES = (
    "CREATE TABLE events (id bigint, at timestamptz)",
    "SELECT create_distributed_table('events', 'id')",
    "CREATE TABLE countries (code text PRIMARY KEY)",
    "SELECT create_reference_table('countries')",
    "CREATE TABLE single (id int)",
    "SELECT create_distributed_table('single', NULL)",
    "CREATE TABLE managed (id int)",
    "SELECT citus_add_local_table_to_metadata('managed')",
    "CREATE TABLE cities (country text REFERENCES countries)",
    "CREATE TABLE plain (id int)",
    'CREATE SCHEMA "My App"',
    'CREATE TABLE "My App"."Big ""T""" ("User Id" bigint)',
    'SELECT create_distributed_table($$"My App"."Big ""T"""$$, \'User Id\', shard_count => 7)',
    "CREATE TABLE logs (tenant bigint, at date) PARTITION BY RANGE (at)",
    "CREATE TABLE logs_2025 PARTITION OF logs FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')",
    "SELECT create_distributed_table('logs', 'tenant')",
    "CREATE TABLE logs_2026 PARTITION OF logs FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
    "SELECT citus_set_node_property(nodename, nodeport, 'shouldhaveshards', true)"
    " FROM pg_dist_node WHERE groupid = 0",
    "CREATE TABLE everywhere (id uuid)",
    "SELECT create_distributed_table('everywhere', 'id', colocate_with => 'none')",
    # Shards of events have such names, but in another schema, or with other numbers.
    "CREATE TABLE events_1 (id int)",
    'CREATE TABLE "My App".events_102008 (id int)',
)


@pytest.fixture
def url(server: DatabaseServer, empty_database: URL) -> URL:
    """A database with every kind of table."""
    execute(empty_database, *TABLES)
    return empty_database


@pytest.fixture
def cluster(url: URL) -> Iterator[Connection]:
    """A connection to it."""
    with create_engine(url, poolclass=NullPool).connect() as connection:
        yield connection


def by_name(connection: Connection) -> dict[str, catalog.CatalogTable]:
    return {t.name: t for t in catalog.tables(connection) if t.extension is None}


def test_kinds_of_tables(cluster: Connection) -> None:
    found = by_name(cluster)
    assert {name: (t.kind, t.column, t.shard_count) for name, t in found.items()} == {
        'Big "T"': ("distributed", "User Id", 7),
        "events_102008": ("local", None, None),
        "cities": ("citus_local", None, 1),
        "countries": ("reference", None, 1),
        "events": ("distributed", "id", SHARD_COUNT),
        "events_1": ("local", None, None),
        "everywhere": ("distributed", "id", SHARD_COUNT),
        "logs": ("distributed", "tenant", SHARD_COUNT),
        "logs_2025": ("distributed", "tenant", SHARD_COUNT),
        "logs_2026": ("distributed", "tenant", SHARD_COUNT),
        "managed": ("citus_local", None, 1),
        "plain": ("local", None, None),
        "single": ("single_shard", None, 1),
    }
    assert [name for name, t in found.items() if t.auto_converted] == ["cities"]
    assert {name for name, t in found.items() if t.partition_of} == {"logs_2025", "logs_2026"}
    assert found["logs_2025"].partition_of == found["logs"].qualified_name
    assert found["logs"].access_method is None
    assert found["logs_2025"].access_method == "heap"


def test_the_tables_of_citus_are_its_own(cluster: Connection) -> None:
    cluster.exec_driver_sql("CREATE EXTENSION citus_columnar")
    cluster.exec_driver_sql("CREATE TABLE archive (id int) USING columnar")
    cluster.exec_driver_sql("SELECT create_distributed_table('archive', 'id')")
    extensions = {t.extension for t in catalog.tables(cluster) if t.schema != "public"}
    assert extensions == {None, "citus_columnar"}
    archive = by_name(cluster)["archive"]
    assert (archive.access_method, archive.kind) == ("columnar", "distributed")


@pytest.mark.parametrize("prefixes", ["", "*"])
def test_shards_are_not_tables(url: URL, prefixes: str) -> None:
    """Whatever Citus shows to an application of that name, and on whichever node."""
    show = f"-c citus.show_shards_for_app_name_prefixes={prefixes} -c application_name=somebody"
    engine = create_engine(url, poolclass=NullPool, connect_args={"options": show})
    with engine.connect() as connection:
        visible = "SELECT count(*) FROM pg_class WHERE relname ^@ 'everywhere_10'"
        assert (connection.exec_driver_sql(visible).scalar_one() > 0) == (prefixes == "*")
        assert len(by_name(connection)) == 13


def test_the_same_from_a_worker(server: DatabaseServer, url: URL, cluster: Connection) -> None:
    worker = server.nodes[1].url_for(str(url.database))
    with create_engine(worker, poolclass=NullPool).connect() as connection:
        distributed = {name for name, t in by_name(cluster).items() if t.kind != "local"}
        assert by_name(connection).keys() == distributed
        assert catalog.shards(connection) == catalog.shards(cluster)
        assert catalog.nodes(connection) == catalog.nodes(cluster)
        assert catalog.cluster_health(connection).healthy


def test_distributed_schemas(server: DatabaseServer, empty_database: URL) -> None:
    execute(
        empty_database,
        "SET citus.enable_schema_based_sharding TO on; CREATE SCHEMA tenant",
        "CREATE TABLE tenant.a (id int)",
        "CREATE TABLE tenant.b (id int)",
        "CREATE TABLE beside (id int)",
        "SELECT create_distributed_table('beside', NULL, colocate_with => 'none')",
    )
    with create_engine(empty_database, poolclass=NullPool).connect() as connection:
        found = by_name(connection)
        assert {name: (t.kind, t.in_distributed_schema) for name, t in found.items()} == {
            "a": ("single_shard", True),
            "b": ("single_shard", True),
            "beside": ("single_shard", False),
        }
        assert found["a"].colocation_id == found["b"].colocation_id


def test_nodes(server: DatabaseServer, cluster: Connection) -> None:
    found = catalog.nodes(cluster)
    assert [node.is_coordinator for node in found] == [True, False, False]
    assert [(node.host, node.port) for node in found] == [
        ("127.0.0.1", int(str(node.url.query["port"]))) for node in server.nodes
    ]
    for node in found:
        assert node.role == "primary"
        assert node.active
        assert node.metadata_synced
        assert node.should_have_shards


def test_colocation_groups(cluster: Connection) -> None:
    found = by_name(cluster)
    groups = {group.id: group for group in catalog.colocation_groups(cluster)}
    events = groups[found["events"].colocation_id or 0]
    assert events.tables == tuple(
        found[name].qualified_name for name in ("events", "logs", "logs_2025", "logs_2026")
    )
    assert (events.shard_count, events.replication_factor) == (SHARD_COUNT, 1)
    assert events.column_type == "bigint"
    countries = groups[found["countries"].colocation_id or 0]
    assert countries.tables == (found["countries"].qualified_name,)
    assert (countries.replication_factor, countries.column_type) == (None, None)
    assert groups[found["everywhere"].colocation_id or 0].column_type == "uuid"
    grouped = sum(len(group.tables) for group in groups.values())
    assert grouped == len([t for t in found.values() if t.colocation_id is not None])


def test_hash_ranges(cluster: Connection) -> None:
    ranges = [s.hash_range for s in catalog.shards(cluster) if s.table == 'Big "T"']
    assert len(ranges) == 7
    flat = [bound for each in ranges if each is not None for bound in each]
    assert (flat[0], flat[-1]) == (-(2**31), 2**31 - 1)
    assert all(last + 1 == first for last, first in zip(flat[1::2], flat[2::2], strict=False))


ROWS = (
    "INSERT INTO events SELECT n, now() FROM generate_series(1, 20000) AS n",
    "INSERT INTO logs SELECT n, '2025-06-01' FROM generate_series(1, 9000) AS n",
    "INSERT INTO logs SELECT n, '2026-06-01' FROM generate_series(1, 3000) AS n",
    "INSERT INTO countries VALUES ('DE'), ('FR')",
    "INSERT INTO managed SELECT generate_series(1, 5000)",
    "INSERT INTO everywhere SELECT gen_random_uuid() FROM generate_series(1, 5000)",
    "CREATE INDEX ON events (at)",
)


def counted_there(node: URL, shard: catalog.Shard) -> int:
    """Return the size of a shard as its node has it."""
    size = text("SELECT pg_total_relation_size(shard_name(to_regclass(:table), :id)::regclass)")
    with create_engine(node, poolclass=NullPool).connect() as connection:
        values = {"table": shard.qualified_table, "id": shard.id}
        return int(connection.execute(size, values).scalar_one())


def test_sizes_are_what_the_nodes_say(
    server: DatabaseServer, url: URL, cluster: Connection
) -> None:
    execute(url, *ROWS)
    ids = [node.id for node in catalog.nodes(cluster)]
    urls = {number: server.nodes[ids.index(number)].url_for(str(url.database)) for number in ids}
    totals: dict[str, int] = {}
    for shard in catalog.shards(cluster):
        for placement in shard.placements:
            counted = counted_there(urls[placement.node], shard)
            assert placement.bytes == counted
            totals[shard.table] = totals.get(shard.table, 0) + counted
    sizes = {size.name: size.bytes for size in catalog.table_sizes(cluster)}
    totals["logs"] = totals["logs_2025"] + totals["logs_2026"]
    assert {name: sizes[name] for name in totals} == totals
    assert totals["events"] > totals["logs"] > totals["logs_2026"] > 0
    # And it is what Citus counts, where it knows the whole.
    for table in ("events", "managed", "everywhere", "logs_2025"):
        counts = text("SELECT citus_total_relation_size(to_regclass(:table))")
        assert sizes[table] == cluster.execute(counts, {"table": table}).scalar_one()


def test_a_table_that_its_own_transaction_has_locked(url: URL, cluster: Connection) -> None:
    """The nodes are asked in connections of their own, which would wait for each other for ever."""
    execute(url, "INSERT INTO events SELECT n, now() FROM generate_series(1, 100) AS n")
    cluster.execute(text("TRUNCATE events"))
    cluster.execute(text("CREATE TABLE new (id int)"))
    cluster.execute(text("SELECT create_distributed_table('new', 'id')"))
    sizes = {size.name: size.bytes for size in catalog.table_sizes(cluster)}
    assert (sizes["events"], sizes["new"], sizes["managed"]) == (None, None, 0)


def test_replicated_shards(server: DatabaseServer, empty_database: URL) -> None:
    execute(
        empty_database,
        "CREATE TABLE twice (id int, t text)",
        "SET citus.shard_replication_factor TO 2; SELECT create_distributed_table('twice', 'id')",
        "INSERT INTO twice SELECT n, repeat('x', 100) FROM generate_series(1, 5000) AS n",
    )
    with create_engine(empty_database, poolclass=NullPool).connect() as connection:
        found = catalog.cluster_status(connection)
    assert [group.replication_factor for group in found.groups] == [2]
    assert {len(shard.placements) for shard in found.shards} == {2}
    (size,) = [size for size in found.sizes if size.name == "twice"]
    once = sum(shard.bytes or 0 for shard in found.shards)
    assert size.bytes == 2 * once > 0
    assert [(load.shards, load.bytes) for load in found.loads] == [(SHARD_COUNT, once)] * 2


@pytest.fixture
def skewed(url: URL) -> Iterator[Connection]:
    """The same, with many rows of few values."""
    execute(
        url,
        "INSERT INTO events SELECT n, now() FROM generate_series(1, 2000) AS n",
        "INSERT INTO events SELECT 7, now() FROM generate_series(1, 60000) AS n",
        "INSERT INTO logs SELECT 7, '2025-06-01' FROM generate_series(1, 5000) AS n",
        "INSERT INTO logs SELECT 8, '2026-06-01' FROM generate_series(1, 5000) AS n",
    )
    with create_engine(url, poolclass=NullPool).connect() as connection:
        yield connection


def counted_by_citus(connection: Connection) -> dict[int, int]:
    rows = connection.execute(text("SELECT shardid, shard_size FROM citus_shards"))
    return {row.shardid: row.shard_size for row in rows}


def test_skew_is_that_of_the_shards(skewed: Connection) -> None:
    found, counted = catalog.cluster_status(skewed), counted_by_citus(skewed)
    skew = {table.name: table for table in found.skew}
    events = {s.id: counted[s.id] for s in found.shards if s.table == "events"}
    largest, mean = max(events.values()), sum(events.values()) / SHARD_COUNT
    assert (skew["events"].largest_bytes, skew["events"].mean_bytes) == (largest, mean)
    assert events[skew["events"].largest_shard or 0] == largest
    assert skew["events"].ratio == pytest.approx(largest / mean)
    # A shard of a partitioned table is what all its partitions have in one hash range.
    by_range: dict[object, int] = {}
    for shard in found.shards:
        if shard.table.startswith("logs"):
            by_range[shard.hash_range] = by_range.get(shard.hash_range, 0) + counted[shard.id]
    assert skew["logs"].largest_bytes == max(by_range.values())
    assert skew["logs"].shards == SHARD_COUNT
    assert not skew.keys() & {"logs_2025", "logs_2026", "countries", "managed", "single"}
    (finding,) = [each for each in found.findings if each.kind == "table_skewed"]
    assert '"public"."events"' in finding.message


def test_loads_are_those_of_the_shards(skewed: Connection) -> None:
    found, counted = catalog.cluster_status(skewed), counted_by_citus(skewed)
    sharded = [s for s in found.shards if s.kind in ("distributed", "single_shard")]
    assert len(found.loads) == 3
    for load in found.loads:
        held = [counted[s.id] for s in sharded for p in s.placements if p.node == load.node]
        assert (load.shards, load.bytes) == (len(held), sum(held))
        assert load.mean_shards == len(sharded) / 3
        assert load.mean_bytes == sum(counted[s.id] for s in sharded) / 3


@pytest.fixture
def one_node(server: DatabaseServer) -> Iterator[URL]:
    """A database with Citus on a coordinator that knows of no other node."""
    url = server.nodes[0].url_for("one_node")
    create_database(url)
    try:
        execute(url, "CREATE EXTENSION citus")
        yield url
    finally:
        # With force, because Citus's daemon is connected.
        execute(server.url, "DROP DATABASE one_node WITH (FORCE)")


ON_ONE_NODE = (
    "CREATE TABLE events (id int, t text)",
    "SELECT create_distributed_table('events', 'id', shard_count => 4)",
    "INSERT INTO events SELECT n, repeat('x', 100) FROM generate_series(1, 5000) AS n",
    "CREATE TABLE countries (code text PRIMARY KEY)",
    "SELECT create_reference_table('countries')",
    "CREATE TABLE cities (country text REFERENCES countries)",
    "CREATE TABLE plain (id int)",
)


def test_citus_on_one_node(one_node: URL) -> None:
    engine = create_engine(one_node, poolclass=NullPool)
    with engine.connect() as connection:
        found = catalog.cluster_status(connection)
        assert (found.nodes, found.shards, found.loads, found.findings) == ((), (), (), ())
        assert found.health.healthy
    execute(one_node, *ON_ONE_NODE)
    with engine.connect() as connection:
        found = catalog.cluster_status(connection)
        counted = text("SELECT citus_total_relation_size(to_regclass(:name))")
        sizes = {
            name: connection.execute(counted, {"name": name}).scalar_one()
            for name in ("cities", "countries", "events")
        }
    (node,) = found.nodes
    assert (node.is_coordinator, node.should_have_shards) == (True, True)
    assert found.health.nodes == (catalog.NodeHealth(node=node.id, reachable=True, error=None),)
    assert found.health.links == (catalog.Link(source=node.id, target=node.id, connected=True),)
    assert {table.name: table.kind for table in found.tables} == {
        "cities": "citus_local",
        "countries": "reference",
        "events": "distributed",
        "plain": "local",
    }
    assert {shard.placements[0].node for shard in found.shards} == {node.id}
    assert {size.name: size.bytes for size in found.sizes} == {**sizes, "plain": 0}
    (load,) = found.loads
    assert (load.shards, load.bytes, load.bytes_ratio) == (4, sizes["events"], 1.0)
    assert found.findings == ()


def test_a_node_that_cannot_connect_to_itself(server: DatabaseServer, one_node: URL) -> None:
    """It answers this connection, so its sizes are known and its queries work."""
    (unused,) = free_ports(1)
    # As by a change of the server's port.
    execute(one_node, *ON_ONE_NODE)
    execute(one_node, f"SELECT citus_update_node(nodeid, '127.0.0.1', {unused}) FROM pg_dist_node")
    with create_engine(one_node, poolclass=NullPool).connect() as connection:
        found = catalog.cluster_status(connection)
    (node,) = found.nodes
    assert found.health.nodes == (catalog.NodeHealth(node=node.id, reachable=True, error=None),)
    assert found.health.links == (catalog.Link(source=node.id, target=node.id, connected=False),)
    assert all(size.bytes is not None for size in found.sizes)
    assert found.loads[0].bytes == sum(s.bytes or 0 for s in found.shards if s.table == "events")
    (finding,) = found.findings
    assert finding.kind == "nodes_disconnected"
    assert f"node {node.id} (127.0.0.1:{unused}) cannot connect to itself" in finding.message
    # The advice works.
    advice = finding.message[finding.message.index("SELECT") :].rstrip(".")
    port = server.nodes[0].url.query["port"]
    execute(one_node, advice.replace("'address', port", f"'127.0.0.1', {port}"))
    with create_engine(one_node, poolclass=NullPool).connect() as connection:
        assert catalog.cluster_status(connection).findings == ()
